"""The first thing on every page: what came out, in one sentence and a few key figures."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import formatting
from compress.report.gains import (
    call_sizes,
    find_arm,
    latency_gain,
    quality_drop,
    report_metric,
    size_gain,
)
from compress.report.measure_schema import Size
from compress.report.schema import Arm, Budget, Report


@dataclass(frozen=True)
class Verdict:
    """The headline.

    Attributes:
        sentence: what came out, without a full stop.
        status: "proven", "met", "missed", or "none" where there is no budget and no gate.
        label: the status in words, or an empty string.
        explanation: the budget's or gate's own sentence, or an empty string.
    """

    sentence: str
    status: str
    label: str
    explanation: str


_BUDGET = {"proven": "Budget proven", "met": "Budget met, not proven", "missed": "Budget missed"}
_GATE = {
    "ok": ("proven", "No regression"),
    "improved": ("proven", "Improved"),
    "inconclusive": ("met", "Inconclusive"),
    "regressed": ("missed", "Regressed"),
}


@dataclass(frozen=True)
class KeyFigure:
    """One figure worth a card: what it is, the figure, and where it comes from."""

    label: str
    figure: str
    note: str


def verdict(report: Report) -> Verdict:
    """The headline of a report, with or without a final model and a budget."""
    final = find_arm(report, report.final)
    if final is None:
        sentence = _measured(report)
    elif final.name == report.baseline:
        sentence = f"The final model is the baseline itself, {final.name}"
    else:
        sentence = _gained(report, final)
    gate, budget = report.gate, report.budget
    if gate is not None:
        status, label = _GATE[gate.verdict]
        return Verdict(_compared(report), status, label, gate.explanation)
    if budget is None:
        return Verdict(sentence, "none", "", "")
    sentence += _judged(report, budget)
    return Verdict(sentence, budget.status, _BUDGET[budget.status], budget.explanation)


def key_figures(report: Report) -> list[KeyFigure]:
    """The final model's figures, or the baseline's where there is no final model."""
    arm = find_arm(report, report.final) or find_arm(report, report.baseline)
    if arm is None:
        return []
    baseline = find_arm(report, report.baseline) or arm
    cards = [_latency_card(report, baseline, arm, size) for size in call_sizes(report)]
    cards += [_size_card(report, baseline, arm), _quality_card(report, baseline, arm)]
    cards += [_memory_card(baseline, arm)]
    return [card for card in cards if card]


def _compared(report: Report) -> str:
    """The candidate of a check against its baseline, or how many gates of a file were kept."""
    if report.promises:
        kept = sum(promise.outcome == "kept" for promise in report.promises)
        return f"{kept} of {formatting.plural(len(report.promises), 'gate')} kept"
    candidate = next(arm for arm in report.arms if arm.name != report.baseline)
    return f"The candidate: {_gained(report, candidate) or 'nothing was compared'}"


def _measured(report: Report) -> str:
    arm = find_arm(report, report.baseline)
    parts = [formatting.plural(len(report.arms), "arm") + " measured"]
    if arm is None:
        return parts[0]
    for size in call_sizes(report):
        point = arm.best_latency(*size)
        if point:
            parts.append(f"{formatting.milliseconds(point.median_ms)} at {size}")
    parts.append(formatting.size(arm.size_bytes))
    if arm.quality:
        metric = formatting.metric_format(arm.quality.metric)
        parts.append(f"{metric.label} {metric.value(arm.quality.value, arm.quality.n)}")
    return f"{parts[0]}; {arm.name}: {', '.join(parts[1:])}"


def _gained(report: Report, final: Arm) -> str:
    clauses = _speed_clauses(report, final)
    shrunk = size_gain(report, final)
    if shrunk:
        clauses.append(shrunk.phrase("smaller", "larger"))
    dropped = _drop_phrase(report, final)
    return "; ".join(part for part in (", ".join(clauses), dropped) if part)


def _speed_clauses(report: Report, final: Arm) -> list[str]:
    """One clause a size of call; a word that the clause before ended in is not said again."""
    clauses: list[str] = []
    said = ""
    for size in call_sizes(report):
        gain = latency_gain(report, final, size)
        if gain is None:
            continue
        phrase = gain.phrase("faster", "slower")
        word = phrase.rpartition(" × ")[2] if " × " in phrase and gain.clear else ""
        if word and word == said:
            phrase = phrase.removesuffix(f" {word}")
        clauses.append(f"{phrase} at {size}")
        said = word
    return clauses


def _drop_phrase(report: Report, final: Arm) -> str:
    found, metric = quality_drop(report, final), report_metric(report)
    if found is None or found.difference is None or metric is None:
        return ""
    n = _samples(final, found.n)
    change = f"{metric.change} {metric.difference(found.difference, n)} {metric.unit}"
    text = f"{metric.label} {change}".rstrip()
    return text + (f" {metric.interval(found.interval, n)}" if found.interval else "")


def _judged(report: Report, budget: Budget) -> str:
    metric = report_metric(report)
    limit = metric.allowed(budget.max_drop) if metric else formatting.fact(budget.max_drop)
    return f" — budget of {limit}: {budget.status}"


def _samples(arm: Arm, compared: int | None) -> int:
    return compared or (arm.quality.n if arm.quality else 1)


def _latency_card(report: Report, baseline: Arm, arm: Arm, size: Size) -> KeyFigure | None:
    before, after = baseline.best_latency(*size), arm.best_latency(*size)
    if after is None:
        return None
    threads = formatting.plural(after.threads, "thread")
    gain = latency_gain(report, arm, size)
    note = f"{threads}, median of {formatting.plural(after.n, 'call')}"
    if before and gain:
        change = f"{gain.phrase('faster', 'slower')} {gain.bounds()}".rstrip()
        note = f"from {formatting.milliseconds(before.median_ms)}; {change}; {threads}"
    figure = formatting.milliseconds(after.median_ms)
    return KeyFigure(f"Latency, {size}", figure, note)


def _size_card(report: Report, baseline: Arm, arm: Arm) -> KeyFigure:
    gain = size_gain(report, arm)
    note = "ONNX file"
    if gain:
        note = f"from {formatting.size(baseline.size_bytes)}; {gain.phrase('smaller', 'larger')}"
    return KeyFigure("File", formatting.size(arm.size_bytes), note)


def _quality_card(report: Report, baseline: Arm, arm: Arm) -> KeyFigure | None:
    quality = arm.quality
    if quality is None:
        return None
    metric = formatting.metric_format(quality.metric)
    notes = [", ".join(metric.basis(quality.interval, quality.n))]
    if baseline.quality and baseline.name != arm.name:
        notes.insert(0, f"from {metric.value(baseline.quality.value, baseline.quality.n)}")
    note = "; ".join(filter(None, notes))
    return KeyFigure(f"{metric.heading}, test split", metric.value(quality.value, quality.n), note)


def _memory_card(baseline: Arm, arm: Arm) -> KeyFigure | None:
    if arm.peak_memory_bytes is None:
        return None
    note = "loading and running, above a bare process"
    if baseline.peak_memory_bytes is not None and baseline.name != arm.name:
        note = f"from {formatting.size(baseline.peak_memory_bytes)}; {note}"
    return KeyFigure("Peak memory", formatting.size(arm.peak_memory_bytes), note)
