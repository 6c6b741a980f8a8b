"""`compress check --gates`: everything that a gate file promises, decided here and now.

All latencies of a file come from one interleaved measurement, and Holm's method counts them as one
family. A gate that is about other machines is skipped, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.artifact import Artifact
from compress.data.references import load_task
from compress.data.task import Task
from compress.errors import CompressError, RecipeError, suggest
from compress.export.graph import OPERATOR_TYPES
from compress.gate import keeps
from compress.measure.further import further_metrics
from compress.measure.latency import Batches
from compress.measure.machine import machine
from compress.measure.quality import feeds
from compress.pipeline.alike import check_alike
from compress.pipeline.bench import describe
from compress.pipeline.benchmark import measurement
from compress.pipeline.check import CheckConfig, no_data, plan
from compress.pipeline.find import find_model
from compress.pipeline.lengths import check_length
from compress.pipeline.origin import origin
from compress.pipeline.pages import write_report
from compress.pipeline.promises import (
    Evidence,
    decide,
    known_cost,
    promise,
)
from compress.pipeline.regression import unfit
from compress.pipeline.timing import Pair, Timed, time_pairs
from compress.progress import Progress, quiet
from compress.recipe.gate_file import GateFile
from compress.recipe.gate_schema import (
    CostGate,
    GateConfig,
    LatencyGate,
    OperatorsGate,
    QualityGate,
)
from compress.report.formatting import plural
from compress.report.gates_schema import Promise
from compress.report.schema import Arm, Gate, Report, Verdict

#: Place in the file to gate.
Gates = dict[int, GateConfig]


def check_gates(
    file: GateFile,
    *,
    command: str = "",
    device: str = "cpu",
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = quiet,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Decide on every gate of a file; `Report.promises` has the outcomes, `Report.gate` the whole.

    Args:
        file: from `compress.recipe.gate_file.load_gates`, with its command line.
        command: what repeats the check.
        out: folder for report.json, .html and .md; None writes nothing.
        tell: is given one line of what is planned, once nothing stands against it.

    Raises:
        RecipeError: models that are not there, metrics that the task does not have, figures that
            are not known; all at once.
        ShapeMismatch: two models of one gate do not do the same job.
        WorkerFailed: a model crashes or hangs while it is measured.
    """
    facts = machine()
    CheckConfig(**dict(file.timing)).bench(1).check_here(device)
    refusals = {place: gate.only_on.refusal(facts) for place, gate in enumerate(file.gates)}
    active = {place: gate for place, gate in enumerate(file.gates) if not refusals[place]}
    artifacts = _find(file)
    files = {name: artifact.onnx for name, artifact in artifacts.items()}
    task = load_task(file.data) if file.data else None
    _check_metrics(file, task)
    rows = feeds(task.validation) if task else None
    check_length(files, file.timing.length, file.data)
    notes = _alike(active, files, rows, device, file.timing.length)
    config = CheckConfig(**dict(file.timing), batch=_batches(active))
    found, scores = describe(artifacts, task, config.bench(1), device, seed, progress, out)
    arms = {arm.name: arm for arm in found}
    _check_known(file, arms)
    timed = _time(active, files, config, rows, device, seed, progress, tell)
    if timed is not None:
        for name in timed.measured.arms():
            if name in arms:
                latency = timed.measured.latency(name)
                arms[name] = arms[name].model_copy(update={"latency": latency})
    evidence = Evidence(arms, scores, task, files, rows, device, timed, config.length)
    promises = [
        promise(place, gate, "skipped", reason=refusals[place])
        if refusals[place]
        else decide(place, gate, evidence)
        for place, gate in enumerate(file.gates)
    ]
    settings = _settings(file)
    report = Report(
        **origin(command, f"Gates of {file.source}", settings),
        baseline=next(iter(arms)),
        gate=_judge(promises, timed, config),
        arms=list(arms.values()),
        promises=promises,
        measurement=measurement(config.bench(timed.workers), timed.measured, device)
        if timed
        else {},
        notes=notes if task else [*notes, *no_data(files, config.length)],
        raw=timed.measured.raw() if timed else None,
    )
    if out is not None:
        write_report(report, out)
    return report


def _settings(file: GateFile) -> dict[str, Any]:
    return {
        "models": {name: str(path) for name, path in file.models.items()},
        "data": file.data,
        "margin": file.timing.margin,
        "threads": file.timing.threads,
        **file.timing.model_dump(mode="json", exclude_defaults=True),
        "gates": [
            gate.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for gate in file.gates
        ],
    }


def _find(file: GateFile) -> dict[str, Artifact]:
    """Every model that a gate names, the ones compared with first; all that are missing at once."""
    names = [gate.against for gate in file.gates] + [gate.compare for gate in file.gates]
    found, errors = {}, []
    for name in dict.fromkeys(name for name in names if name is not None):
        try:
            found[name] = find_model(file.models[name])
            _ = found[name].onnx
        except CompressError as error:
            errors.append(f"models.{name}: {error}")
    if errors:
        raise RecipeError(file.source, errors)
    return found


def _check_metrics(file: GateFile, task: Task | None) -> None:
    errors = []
    for place, gate in enumerate(file.gates):
        if isinstance(gate, QualityGate) and task is not None:
            known = ["quality", task.metric.name, *further_metrics(task)]
            if gate.metric not in known:
                errors.append(
                    f"gates[{place}].metric: task '{task.name}' has no metric '{gate.metric}'. "
                    f"Known: {', '.join(known)}.{suggest(gate.metric, known)}"
                )
        if isinstance(gate, OperatorsGate) and gate.type and gate.type not in OPERATOR_TYPES:
            known = sorted(OPERATOR_TYPES)
            errors.append(
                f"gates[{place}].type: no operator '{gate.type}' that computes. "
                f"Known: {', '.join(known)}.{suggest(gate.type, known)}"
            )
    if errors:
        raise RecipeError(file.source, errors)


def _check_known(file: GateFile, arms: dict[str, Arm]) -> None:
    """Refuse gates on figures that a bare ONNX file does not tell, before anything is timed."""
    errors = [
        f"gates[{place}]: {unknown}"
        for place, gate in enumerate(file.gates)
        if isinstance(gate, CostGate) and (unknown := known_cost(gate, arms))
    ]
    if errors:
        raise RecipeError(file.source, errors)


def _alike(
    active: Gates,
    files: Mapping[str, Path],
    rows: Batches | None,
    device: str,
    length: int | None,
) -> list[str]:
    """Refuse pairs that do not do the same job; cost alone may be compared across jobs."""
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for gate in active.values():
        if gate.against and not isinstance(gate, (CostGate, OperatorsGate)):
            pair = (gate.against, gate.compare)
            pairs.setdefault(frozenset(pair), pair)
    sample = rows(2) if rows else None
    return [
        f"{candidate} against {baseline}: {note}"
        for baseline, candidate in pairs.values()
        for note in check_alike(files[baseline], files[candidate], device, sample, length)
    ]


def _timed_gates(active: Gates) -> dict[int, LatencyGate]:
    return {place: gate for place, gate in active.items() if isinstance(gate, LatencyGate)}


def _batches(active: Gates) -> tuple[int, ...]:
    return tuple(sorted({gate.batch for gate in _timed_gates(active).values()})) or (1,)


def _time(
    active: Gates,
    files: Mapping[str, Path],
    config: CheckConfig,
    rows: Batches | None,
    device: str,
    seed: int,
    progress: Progress,
    tell: Callable[[str], None],
) -> Timed[int, bool] | None:
    """One measurement for all gates on latency; None where there are none on this machine."""
    gates = _timed_gates(active)
    if not gates:
        return None
    pairs = {
        place: Pair(gate.against or "", gate.compare, gate.batch, config.length)
        for place, gate in gates.items()
    }
    named = dict.fromkeys(name for pair in pairs.values() for name in pair[:2])
    limits = {place: gate.at_most for place, gate in gates.items()}
    tell(f"{plural(len(gates), 'latency gate')}: {plan(len(gates))}")
    return time_pairs(
        {name: files[name] for name in named},
        pairs,
        config.bench,
        lambda logs, alpha: keeps(logs, limits, alpha),
        config.margin,
        inputs=rows,
        device=device,
        seed=seed,
        progress=progress,
    )


def _judge(promises: list[Promise], timed: Timed[int, bool] | None, config: CheckConfig) -> Gate:
    """The worst outcome, and one sentence that names what was not kept."""
    by_outcome: dict[str, list[Promise]] = {}
    for each in promises:
        by_outcome.setdefault(each.outcome, []).append(each)
    verdict: Verdict = "ok"
    if "broken" in by_outcome:
        verdict = "regressed"
    elif "inconclusive" in by_outcome or "kept" not in by_outcome:
        verdict = "inconclusive"  # where all were skipped nothing was shown
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in by_outcome.items())
    text = f"{verdict}: of {plural(len(promises), 'gate')} {counts}."
    for outcome in ("broken", "inconclusive"):
        for each in by_outcome.get(outcome, []):
            why = f" ({each.reason})" if each.reason else ""
            name = f"{each.candidate} {each.metric}"
            text += f" {outcome.capitalize()}: {name} {each.promised}, found {each.found}{why}."
    if timed is not None and not timed.fit:
        text += f" {unfit(timed.control)}"
    return Gate(
        verdict=verdict,
        margin=config.margin,
        max_drop=None,
        size_margin=0.0,
        workers=timed.workers if timed else 0,
        control=timed.control if timed else {},
        fit=timed.fit if timed else True,
        explanation=text,
    )
