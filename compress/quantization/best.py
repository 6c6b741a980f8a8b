"""Measuring quantized models on the real runtime, and choosing between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.errors import NoEffect
from compress.measure.config import BenchConfig
from compress.measure.judge import Judge
from compress.onnx_files import size_bytes
from compress.progress import Progress, quiet
from compress.quantization.building import Built
from compress.quantization.config import QuantizeConfig
from compress.quantization.losses import Losses
from compress.quantization.rescue import rescue
from compress.quantization.timing import Timed, time_candidates
from compress.report.formatting import metric_format
from compress.report.schema import Candidate
from compress.runtime.interface import Target

#: Latencies closer than this count as equal on a shared machine; so do sizes.
MARGIN = 0.03
#: What uses half of the budget may be slower by so much than what uses all of it: of two models
#: that just keep the budget here, one loses more on other data.
_RISK = 0.2
#: Drops are means of many samples.
_ROUNDING = 1e-9
#: Why a candidate of a slow model is left out.
_GLANCED_AT = "others were faster at the smallest batch; calls take too long to time all at others"
#: The stage's input among the candidates.
INPUT = "the input"
#: How the names of others begin that are fp32 as well.
_STILL_FP32 = "fp32, "


@dataclass(frozen=True)
class Goal:
    """What a quantized model is chosen by.

    Attributes:
        reference: ONNX file whose quality on the validation split must be kept.
        max_drop: allowed drop of the metric, in its unit.
        relative: whether it is a share of the reference's metric instead.
        minimise: "latency" or "size".
        bench: batch sizes and thread counts that count.
    """

    reference: Path
    max_drop: float
    minimise: str
    bench: BenchConfig
    relative: bool = False


@dataclass(frozen=True)
class Alone:
    """A candidate that is faster than the choice at one batch size.

    Attributes:
        name, target, threads: as of a choice.
        gain: latency of the choice / latency of this one.
        drop: on the validation split.
    """

    name: str
    target: Target
    threads: int
    gain: float
    drop: float


@dataclass(frozen=True)
class Choice:
    """What was chosen, and by what.

    Attributes:
        name: of the candidate; None where the input itself stays.
        target: its file, and the runtime that it is fastest on.
        account: every candidate with its figures, and why it was kept or refused.
        threads: batch size to the thread count at which the choice is fastest.
        alone: batch size to what is faster there than the choice, which is for all of them.
        interrupted: whether it was chosen by less than was to be measured.
    """

    name: str | None
    target: Target
    account: list[Candidate]
    threads: dict[int, int]
    alone: dict[int, Alone] = field(default_factory=dict)
    interrupted: bool = False


def choose(
    source: Path,
    built: Built,
    judge: Judge,
    goal: Goal,
    *,
    stage: str,
    device: str = "cpu",
    threads: int = 1,
    runtimes: tuple[str, ...] = (),
    progress: Progress = quiet,
) -> Choice:
    """Measure all candidates beside their input and choose one.

    An interrupt while they are timed leaves a choice by what is known, see `time_candidates`.

    Args:
        source: the stage's input, which a candidate must not be slower than.
        threads: for answers that are not timed.
        runtimes: which every file, the input's included, is tried on beside onnxruntime.
    """
    losses = Losses(goal.reference, judge, device, threads)
    if goal.relative:
        goal = replace(goal, max_drop=goal.max_drop * abs(float(losses.reference.mean())))
    arms = _targets({INPUT: source, **built.files}, runtimes)
    drops, failed = losses.of_all(arms, goal.max_drop, needed=(INPUT,))
    rescued = rescue(
        built,
        drops,
        lambda path: losses.of(Target(path)),
        goal.max_drop,
        scores=judge.outputs_are_scores,
        progress=progress,
    )
    more = _targets(rescued.files, runtimes)
    arms |= more
    further = losses.of_all(more, goal.max_drop, known=rescued.drops)
    drops |= further[0]
    failed |= further[1] | built.failures | rescued.failures
    within = {name for name, drop in drops.items() if drop <= goal.max_drop + _ROUNDING}
    timed = time_candidates(
        {name: arms[name] for name in drops if name in within or _is_told(arms, name)},
        INPUT,
        within if goal.minimise == "latency" else (),
        goal.bench,
        judge,
        device,
        progress,
    )
    failed |= {name: f"could not be timed: {why}" for name, why in timed.failed.items()}
    change = metric_format(judge.metric, judge.higher_is_better).change
    found: dict[str, Candidate] = {}
    for name in (name for name in drops if name not in failed):
        ratio = timed.ratios.get(name)
        found[name] = Candidate(
            stage=stage,
            name=name,
            kept=False,
            reason=_refusal(name, drops[name], ratio, goal, change)
            or (_GLANCED_AT if timed.glanced_at(name) else ""),
            drop=drops[name],
            latency_ratio=ratio,
            latency_ratio_by_batch=_by_batch(name, timed, goal),
            size_bytes=size_bytes(arms[name].path),
            sensitivity=rescued.sensitivity.get(name, []),
        )
    chosen = _best(found, goal)
    account = [_account(entry, chosen, found, goal) for entry in found.values()]
    account += [
        Candidate(stage=stage, name=name, kept=False, reason=reason)
        for name, reason in failed.items()
    ]
    best_threads = {batch: timed.threads(chosen, batch) for batch in goal.bench.batch}
    taken = None if chosen == INPUT else chosen
    told = goal.minimise == "latency" and not timed.interrupted  # one look is too few for a file
    usable = within & found.keys() & timed.contenders if told else set[str]()
    alone = {
        batch: Alone(name, arms[name], timed.threads(name, batch), gain, drops[name])
        for batch, (name, gain) in _faster_alone(usable, chosen, timed, drops, goal).items()
    }
    return Choice(taken, arms[chosen], account, best_threads, alone, timed.interrupted)


def _faster_alone(
    usable: Collection[str], chosen: str, timed: Timed, drops: Mapping[str, float], goal: Goal
) -> dict[int, tuple[str, float]]:
    """By batch size the best of the usable ones and how much faster it is, where worth a file."""
    found = dict[int, tuple[str, float]]()
    for batch in goal.bench.batch if len(goal.bench.batch) > 1 else ():
        ratios = {name: timed.ratio(name, INPUT, batch) for name in sorted({*usable, chosen})}
        prices = {name: ratio * _cost(drops[name], goal) for name, ratio in ratios.items()}
        name = min(sorted(usable), key=prices.__getitem__, default=chosen)
        gain = ratios[chosen] / ratios[name]
        if min(gain, prices[chosen] / prices[name]) > 1 + 2 * MARGIN:
            found[batch] = name, gain
    return found


def _by_batch(name: str, timed: Timed, goal: Goal) -> dict[str, float]:
    """Latency / latency of the input at each batch size; empty for what was not timed."""
    if name not in timed.ratios:
        return {}
    known = [batch for batch in goal.bench.batch if batch in timed.batches(name)]
    return {str(batch): timed.ratio(name, INPUT, batch) for batch in known}


def _is_told(arms: Mapping[str, Target], name: str) -> bool:
    """Whether its speed is worth knowing also over the budget: on the runtime of the input."""
    return arms[name].runtime == arms[INPUT].runtime


def _targets(files: dict[str, Path], runtimes: tuple[str, ...]) -> dict[str, Target]:
    """Every file on onnxruntime, then on each of the others."""
    found = {name: Target(path) for name, path in files.items()}
    for runtime in runtimes:
        found |= {f"{name}, {runtime}": Target(path, runtime) for name, path in files.items()}
    return found


def refuse_single_method(choice: Choice, config: QuantizeConfig) -> None:
    """Raise NoEffect where the one method that was asked for is not what was kept."""
    if choice.name is None and config.method != "best":
        refused = [entry.reason for entry in choice.account if entry.name != INPUT]
        raise NoEffect(
            f"quantization by '{config.method}' was refused: {(refused or ['not built'])[0]}. "
            "Use method=best, or raise budget.max_drop."
        )


def _refusal(name: str, drop: float, ratio: float | None, goal: Goal, change: str) -> str:
    """Why a candidate cannot be taken; empty where it can. `change` is the word for a drop."""
    if drop > goal.max_drop + _ROUNDING:
        return f"validation {change} {drop:.4f} is over the budget of {goal.max_drop:.4g}"
    if ratio is not None and ratio > 1 + MARGIN and goal.minimise == "latency":
        return f"slower than the input: {ratio:.2f} × its latency"
    same = name.startswith(_STILL_FP32) and ratio is not None and ratio > 1 - MARGIN
    if same and goal.minimise == "latency":
        return "no faster than the input, and nothing in it is int8"
    return ""


def _best(found: dict[str, Candidate], goal: Goal) -> str:
    """The fastest, or the smallest: little speed is no reason to use up the budget."""
    allowed = [entry for entry in found.values() if not entry.reason] or [found[INPUT]]
    if goal.minimise == "size":
        return min(allowed, key=_size).name
    chosen = _fastest(allowed, goal)
    faster = [entry for entry in allowed if _latency(entry) * (1 + 2 * MARGIN) < 1]
    # The budget was given to be used where that is the only way to be faster at all.
    return _fastest(faster, goal) if chosen == INPUT and faster else chosen


def _fastest(allowed: list[Candidate], goal: Goal) -> str:
    def price(entry: Candidate) -> float:
        return _latency(entry) * _cost(entry.drop, goal)

    near = _near_least(allowed, price, 2 * MARGIN)
    safe = [entry for entry in near if _cost(entry.drop, goal) == 1]
    equals = _near_least(safe or allowed, price)
    return min(_near_least(equals, _size), key=price).name


def _cost(drop: float | None, goal: Goal) -> float:
    """What a latency counts for: itself up to half of the budget, more by `_RISK` at all of it."""
    half = goal.max_drop / 2
    over = (drop or 0.0) - half
    return 1 + _RISK * over / half if half and over > 0 else 1.0


def _near_least(
    entries: list[Candidate], of: Callable[[Candidate], float], margin: float = MARGIN
) -> list[Candidate]:
    """Those within a margin of the least."""
    most = min(map(of, entries)) * (1 + margin)
    return [entry for entry in entries if of(entry) <= most]


def _latency(entry: Candidate) -> float:
    return entry.latency_ratio or 1.0


def _size(entry: Candidate) -> float:
    return entry.size_bytes or 0


def _account(entry: Candidate, chosen: str, found: dict[str, Candidate], goal: Goal) -> Candidate:
    if entry.name != chosen:
        passed_over = goal.minimise == "latency" and (
            _latency(entry) * (1 + 2 * MARGIN) < _latency(found[chosen])
        )
        better = "loses less, and is little slower" if passed_over else "is faster or smaller"
        return entry.model_copy(update={"reason": entry.reason or f"{chosen} {better}"})
    allowed = [_latency(other) for other in found.values() if not other.reason]
    if entry.reason:
        reason = "nothing else is within the budget"
    elif goal.minimise == "size":
        reason = "smallest within the budget"
    elif entry.name == INPUT:
        reason = "nothing else is faster within the budget"
    elif entry.latency_ratio == min(allowed):
        reason = "fastest within the budget"
    elif _latency(entry) <= min(allowed) * (1 + 2 * MARGIN):
        reason = f"safest, or smallest, of those within {2 * MARGIN:.0%} of the fastest"
    else:
        reason = "what is faster uses most of the budget, and may miss it on other data"
    return entry.model_copy(update={"kept": True, "reason": reason})
