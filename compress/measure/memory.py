"""Memory of a measuring process, from Linux's account of it."""

from __future__ import annotations

from pathlib import Path


def forget_peak() -> int | None:
    """Resident bytes now; the peak counts anew from here, as importing had a peak of its own."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak() -> int | None:
    """Most bytes that were resident since `forget_peak`; None if unknown."""
    return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
