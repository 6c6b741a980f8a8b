"""Memory of a measuring process, from Linux's account of it."""

from __future__ import annotations

from pathlib import Path

#: Of the control group that a container runs in (version 2).
_GROUP = Path("/sys/fs/cgroup")


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


def available() -> int | None:
    """Bytes that this process and its children may still take; None if unknown.

    The machine's, or what its control group (a container's limit) leaves, whichever is less.
    """
    free = _field("/proc/meminfo", "MemAvailable")
    try:
        limit = int((_GROUP / "memory.max").read_text())  # "max" where there is none
        left = limit - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return max(0, left) if free is None else min(free, max(0, left))


def _status(field: str) -> int | None:
    return _field("/proc/self/status", field)


def _field(file: str, field: str) -> int | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
