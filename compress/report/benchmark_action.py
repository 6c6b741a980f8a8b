"""A report as the list that github-action-benchmark reads with `tool: customSmallerIsBetter`.

Each entry has a name, which has to stay the same from commit to commit, a unit and a value of which
less is better. Latencies are ratios to the baseline of the same run: a millisecond of one shared
runner says nothing beside that of another.
"""

from __future__ import annotations

import json
from typing import Any

from compress.report.gains import call_sizes, comparison, latency_gain, report_metric
from compress.report.gate_table import promise_name
from compress.report.gates_schema import Promise
from compress.report.measure_schema import Size
from compress.report.record import Interval
from compress.report.schema import Arm, Report
from compress.report.subject import judged_arms, machine_class

_COSTS = {
    "size_bytes": ("File", "bytes"),
    "parameters": ("Parameters", "parameters"),
    "macs": ("MACs, one sample", "MACs"),
}
_Entry = dict[str, Any]


def render_benchmark_action(report: Report) -> str:
    """The list as JSON, ending in a newline.

    Latency is candidate / baseline; bytes, parameters and MACs are the model's own; quality is the
    paired drop on the test split, below 0 where the model is better than its baseline. Of a gate
    file it is the figure of every gate with an upper bound, against the model that the gate names.
    """
    if report.promises:
        entries = [_promise(entry) for entry in report.promises if _smaller_is_better(entry)]
        return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    arms = judged_arms(report)
    entries = []
    for arm in arms:
        prefix = f"{arm.name}: " if len(arms) > 1 else ""
        found = [*_latencies(report, arm), *_costs(arm), *_drop(report, arm)]
        entries += [{**entry, "name": prefix + entry["name"]} for entry in found]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def _smaller_is_better(entry: Promise) -> bool:
    return entry.value is not None and entry.promised.startswith("at most")


def _promise(entry: Promise) -> _Entry:
    """One gate of a gate file; its bound is part of the name, for it may change with the file."""
    assert entry.value is not None
    name = f"{promise_name(entry)}, {entry.promised}"
    ratio = entry.metric in ("latency", "size", "parameters", "macs") and entry.baseline
    unit = "ratio" if ratio else entry.metric
    return _entry(name, unit, entry.value, entry.interval, entry.outcome)


def _latencies(report: Report, arm: Arm) -> list[_Entry]:
    return [entry for size in call_sizes(report) if (entry := _latency(report, arm, size))]


def _latency(report: Report, arm: Arm, size: Size) -> _Entry | None:
    name = f"Latency, {size}, candidate / baseline"
    found = comparison(report, report.baseline, arm.name, "latency", size)
    if found is not None and found.ratio is not None:
        extra = f"{machine_class(report.machine)}; {found.n or 0} processes; {found.verdict}"
        return _entry(name, "ratio", found.ratio, found.interval, extra)
    gain = latency_gain(report, arm, size)
    if gain is None:
        return None
    return _entry(name, "ratio", 1 / gain.factor, None, machine_class(report.machine))


def _costs(arm: Arm) -> list[_Entry]:
    found = ((name, unit, getattr(arm, field)) for field, (name, unit) in _COSTS.items())
    return [_entry(name, unit, value) for name, unit, value in found if value is not None]


def _drop(report: Report, arm: Arm) -> list[_Entry]:
    found, metric = comparison(report, report.baseline, arm.name, "quality"), report_metric(report)
    if found is None or found.difference is None or metric is None:
        return []
    name = f"{metric.heading} {metric.change}, test split"
    scale = 100 if metric.share else 1
    bounds = found.interval and (found.interval[0] * scale, found.interval[1] * scale)
    extra = f"{found.n:,} samples; {found.verdict}" if found.n else found.verdict
    unit = metric.unit or metric.label
    return [_entry(name, unit, found.difference * scale, bounds, extra)]


def _entry(
    name: str, unit: str, value: float, bounds: Interval | None = None, extra: str = ""
) -> _Entry:
    entry: _Entry = {
        "name": name,
        "unit": unit,
        "value": value if isinstance(value, int) else float(f"{value:.6g}"),
    }
    if bounds is not None:
        entry["range"] = f"{bounds[0]:.4g} to {bounds[1]:.4g}"
    return entry | ({"extra": extra} if extra else {})
