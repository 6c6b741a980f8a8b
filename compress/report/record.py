"""What every part of a report is: unchangeable, without unknown fields, of finite numbers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

#: Lower and upper bound.
Interval = tuple[float, float]


class Record(BaseModel):
    """Base of all that `report.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
