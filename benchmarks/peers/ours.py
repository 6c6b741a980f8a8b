"""What `compress quantize` makes of a subject, by its command line, as anybody would call it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.judge import QUALITIES
from benchmarks.peers.packages import without_place
from benchmarks.peers.subject import Subject

#: Of the record, to the runtimes that may be tried beside onnxruntime.
WAYS = {"ours": ("openvino", "openvino-bf16"), "ours on onnxruntime": ()}
#: The report is not used here: it may time what was chosen as briefly as it can.
_BENCH = ("benchmark.workers=1", "benchmark.rounds=2", "benchmark.control=false")
_METRIC = """from benchmarks.peers.judge import choosing_quality


def metric(run):
    return choosing_quality(run, {folder!r})
"""


@dataclass(frozen=True)
class Choice:
    """The file that was chosen, what runs it, and its name."""

    path: Path
    runtime: str
    what: str


@dataclass(frozen=True)
class Ours:
    """What came of it.

    Attributes:
        choice: for all batch sizes.
        alone: batch size to what was found to be faster there, as peers are compared by it.
        account: what became of every candidate.
    """

    choice: Choice
    alone: dict[int, Choice]
    account: dict[str, str]


def ours(subject: Subject, way: str) -> Ours:
    """Our choice, and what became of every candidate.

    A reference model is chosen for its task. Any other is chosen by the subject's quality on the
    rows for choosing, and calibrated on two fifths of the rows that the peers get.

    Args:
        way: a key of `WAYS`.

    Returns:
        The fp32 file itself where the command failed or refused it, and what it said.
    """
    out = subject.folder / way.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)  # what an earlier version chose
    command = [sys.executable, "-m", "compress", "quantize", str(subject.onnx), "--out", str(out)]
    command += ["--max-drop", str(subject.tolerance), *_BENCH]
    command += [f"benchmark.batch=[{','.join(map(str, subject.batches))}]"]
    for runtime in WAYS[way]:
        command += ["--runtime", runtime]
    done = subprocess.run(command + _data(subject), check=False, capture_output=True, text=True)
    # 1: nothing was better, and the fp32 model stays; or it was refused.
    if done.returncode not in (0, 1) or not (out / "card.json").exists():
        why = (done.stderr.strip().splitlines() or ["nothing was written"])[-1]
        what = "fp32, refused" if done.returncode == 1 else "fp32, the command FAILED"
        return Ours(Choice(subject.onnx, "onnxruntime", what), {}, {"compress quantize": why})
    evidence = json.loads((out / "card.json").read_text())["evidence"]
    account = {entry["name"]: _told(entry) for entry in evidence["candidates"]}
    runtime = evidence["made_for"]["runtime"]
    choice = Choice(out / "model.onnx", runtime, f"{evidence['chosen']} @ {runtime}")
    alone = {
        int(batch): Choice(
            out / found["file"], found["runtime"], f"{found['chosen']} @ {found['runtime']}"
        )
        for batch, found in evidence["for_one_batch_size"].items()
    }
    return Ours(choice, alone, account)


def _data(subject: Subject) -> list[str]:
    if subject.task:
        return ["--data", subject.task]
    metric = subject.folder / "metric.py"
    metric.write_text(_METRIC.format(folder=str(subject.folder)))
    found = ["--data", f"npz:{subject.data_file('train')}", "--metric", f"{metric}:metric"]
    return found if QUALITIES[subject.quality][1] else [*found, "--lower-is-better"]


def _told(entry: dict[str, Any]) -> str:
    """Speed, loss and reason of a candidate."""
    ratio, drop = entry.get("latency_ratio"), entry.get("drop")
    speed = f"{1 / ratio:.2f} ×, " if ratio else ""
    loss = f"loses {drop:.4f}, " if drop is not None else ""
    return without_place(f"{speed}{loss}{entry['reason']}")
