"""What every report begins with: what made it, when, where, and from which settings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import compress
from compress.artifact import digest
from compress.measure.machine import machine
from compress.pipeline.commit import current_commit


def origin(command: str, title: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a report that do not depend on what was measured.

    Args:
        command: what repeats it.
        settings: as they were resolved; of the same hash, reports can be compared.
    """
    return {
        "tool_version": compress.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "title": title,
        "machine": machine(),
        "commit": current_commit(),
        "recipe": settings,
        "recipe_hash": digest(settings),
    }
