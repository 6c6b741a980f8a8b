"""Reports of many commits: the sample with other figures, one a day."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sample import sample_report

from compress.report import Report
from compress.report.schema import Comparison

MACHINES = {
    "A": {"processor": "AMD EPYC 7763", "cores": 4, "instruction_sets": ["avx2"]},
    "B": {"processor": "Xeon 8370C", "cores": 4, "instruction_sets": ["avx2", "avx512_vnni"]},
}


def day(place: int, ratio: float, *, machine: str = "A", size: int = 56_200) -> Report:
    """The report of one commit; its final model took `ratio` times its baseline's time."""
    sample = sample_report()
    arms = [
        arm.model_copy(update={"size_bytes": size}) if arm.name == sample.final else arm
        for arm in sample.arms
    ]
    entries = [_with_ratio(entry, ratio) for entry in sample.comparisons]
    date = f"2026-{1 + place // 28:02d}-{1 + place % 28:02d}T08:00:00+00:00"
    update: dict[str, object] = {"arms": arms, "comparisons": entries, "created": date}
    update |= {"commit": f"{place + 0xABC0000:x}" + "0" * 33, "machine": MACHINES[machine]}
    return sample.model_copy(update=update)


def _with_ratio(entry: Comparison, ratio: float) -> Comparison:
    if (entry.candidate, entry.what) != ("5-student", "latency"):
        return entry
    return entry.model_copy(update={"ratio": ratio, "interval": (ratio * 0.98, ratio * 1.03)})


def store(folder: Path, reports: Sequence[Report]) -> Path:
    """Each report in a folder of its own, not in the order of time."""
    for place, report in enumerate(reports):
        path = folder / f"{(place * 7) % 10}-build" / f"{place}" / "report.json"
        path.parent.mkdir(parents=True)
        path.write_text(report.model_dump_json())
    return folder
