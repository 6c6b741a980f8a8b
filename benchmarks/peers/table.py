"""Who is best, by how much, and the geometric means over all models. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: One arm: "lost", "size_bytes", "speed" by batch against onnxruntime fp32, and "reason" where it
#: does not count.
Entry = Mapping[str, Any]


def best(entries: Mapping[str, Entry], batch: str, names: Iterable[str]) -> tuple[str, float]:
    """The fastest of the arms that count, and its speed.

    Raises:
        ValueError: none of them counts.
    """
    speeds = {
        name: entries[name]["speed"][batch]
        for name in names
        if name in entries and not entries[name].get("reason")
    }
    name = max(speeds, key=lambda arm: speeds[arm])
    return name, speeds[name]


def geometric_mean(values: Sequence[float]) -> float | None:
    """Of positive numbers; None of none."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else None


def against(
    entries: Mapping[str, Entry], ours: Entry, names: Iterable[str], *, counting: bool = True
) -> dict[str, float]:
    """By batch, our speed over the best of those arms; batches where there is none left out.

    Args:
        counting: False takes arms that lost too much as well, if they ran.
    """
    found = {}
    wanted = list(names)
    if not counting:
        entries = {name: {"speed": entry.get("speed", {})} for name, entry in entries.items()}
        wanted = [name for name in wanted if entries.get(name, {}).get("speed")]
    for batch, speed in ours["speed"].items():
        try:
            found[batch] = speed / best(entries, batch, wanted)[1]
        except ValueError:
            continue
    return found


def summary(
    results: Mapping[str, Mapping[str, Any]], own_tools: Sequence[str], default: str
) -> dict[str, Any]:
    """The issue's goals, each a geometric mean over all models and batches.

    Args:
        results: name to the stored record of one model.
        own_tools: the arms that onnxruntime's own tools give.
        default: the arm of onnxruntime's static quantization as it comes.
    """
    ratios: dict[str, list[float]] = {"all": [], "own": [], "default": []}
    below, over = [], []
    for name, record in results.items():
        peers, ours, on_ort = record["peers"], record["ours"], record["ours on onnxruntime"]
        over_all = against(peers, ours, peers)
        below += [f"{name}, batch {b}: {r:.2f} ×" for b, r in over_all.items() if r < 1]
        over += [f"{name}: {one['reason']}" for one in (ours, on_ort) if one.get("reason")]
        ratios["all"] += over_all.values()
        ratios["own"] += against(peers, on_ort, own_tools).values()
        ratios["default"] += against(peers, on_ort, [default], counting=False).values()
    return {
        "ours over the best of all peers": geometric_mean(ratios["all"]),
        "onnxruntime alone, over its own tools' best": geometric_mean(ratios["own"]),
        "onnxruntime alone, over its default static": geometric_mean(ratios["default"]),
        "below the best peer": below,
        "ours over the tolerance on the final rows": over,
    }


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each model and batch: the best peer, ours, and ours over it."""
    lines = ["| model | batch | best peer | ours | ours on onnxruntime | ours / best peer |"]
    lines.append("| --- " * 6 + "|")
    for name, record in results.items():
        for batch in record["ours"]["speed"]:
            peer, speed = best(record["peers"], batch, record["peers"])
            ours, here = record["ours"], record["ours on onnxruntime"]
            cells = [name, batch, f"{speed:.2f} × {peer}"]
            cells += [f"{one['speed'][batch]:.2f} × {_what(one, batch)}" for one in (ours, here)]
            lines.append(f"| {' | '.join(cells)} | {ours['speed'][batch] / speed:.2f} × |")
    return "\n".join(lines)


def _what(ours: Entry, batch: str) -> str:
    """What was chosen, for calls of that size alone where something is."""
    what: str = ours.get("alone", {}).get(batch, ours)["what"]
    return what


def with_alone(
    way: str, own: Mapping[str, Mapping[str, Any]], batches: tuple[int, ...]
) -> dict[str, Any]:
    """The record of our choice, at each batch size of the file that is for it alone, if any."""
    found = {**own[way], "alone": {}}
    for batch in batches:
        alone = own.get(alone_name(way, batch))
        if alone is None:
            continue
        found["alone"][str(batch)] = alone
        for key in ("speed", "interval", "threads"):
            found[key] = found.get(key, {}) | {
                size: value for size, value in alone.get(key, {}).items() if size == str(batch)
            }
        if "reason" in alone:
            found.setdefault("reason", f"batch {batch}: {alone['reason']}")
    return found


def alone_name(way: str, batch: int) -> str:
    """Of the arm of the file that is for calls of that size alone."""
    return f"{way}, batch {batch} alone"
