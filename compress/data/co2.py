"""`co2`: weekly carbon dioxide at Mauna Loa, 1958 to 2001, as statsmodels carries it.

The source is Keeling & Whorf (2004), CDIAC. From the last two years the next 26 weeks are forecast.
59 of the 2,284 weeks have no value; they are interpolated linearly, all of them in the training
split. Windows of one split overlap: 26 neighbours forecast much the same weeks. Their mean counts
as one sample, so that intervals are not far too narrow.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.data.packages import package_file, unreadable
from compress.data.task import Metric, Split, Task, squared_error

PAST, FUTURE, YEAR = 104, 26, 52  # weeks
SHARES = (0.7, 0.1)  # of the weeks for training and validation; the rest is for the test
MIN_WEEKS = 10 * (PAST + FUTURE)  # with fewer, validation has no window

Values = npt.NDArray[np.float64]


def load() -> Task:
    """The task; inputs are (n, 104, 1), targets (n, 26): ppm above the last known week's, scaled.

    Raises:
        InputError: the package that carries the data is not installed, or its file is damaged.
    """
    weeks = _read(source())
    bounds = [0, *(round(share * len(weeks)) for share in np.cumsum(SHARES)), len(weeks)]
    windows = [_windows(weeks, low, high) for low, high in pairwise(bounds)]
    scale = float(_targets(windows[0]).std())
    train, validation, test = (
        _split(part, low, scale) for part, low in zip(windows, bounds, strict=False)
    )
    return Task(
        name="co2",
        train=train,
        validation=validation,
        test=test,
        metric=Metric(
            "mean squared error (ppm²)",
            higher_is_better=False,
            score=partial(squared_ppm, scale=scale),
        ),
        kind="regression",
        classes=tuple(f"week {week}" for week in range(1, FUTURE + 1)),
        facts={"in_features": 1, "outputs": FUTURE, "max_length": PAST},
        preprocessing={
            "subtract": "the window's last value, in ppm",
            "divide": scale,
            "gaps": "interpolated linearly",
        },
        simple=simple_answers(windows[2]),
        further={"mean absolute error (ppm)": partial(absolute_ppm, scale=scale)},
    )


def source() -> Path:
    """Where the data is."""
    return package_file("co2", "statsmodels", "statsmodels", "datasets", "co2", "co2.csv")


def squared_ppm(
    outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any], scale: float
) -> npt.NDArray[np.float64]:
    """Mean squared error in ppm² of each 26 neighbouring windows, (n / 26,).

    Args:
        outputs, targets: (n, 26), in units of `scale`, in order of time.
    """
    return _independent(squared_error(outputs, targets) * scale**2)


def absolute_ppm(
    outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any], scale: float
) -> npt.NDArray[np.float64]:
    """Mean absolute error in ppm of each 26 neighbouring windows, as `squared_ppm` has it."""
    return _independent(np.abs(outputs.astype(np.float64) - targets).mean(axis=1) * scale)


def _independent(scores: Values) -> Values:
    """Means over neighbours that share most of their weeks; about (n / 26,)."""
    parts = np.array_split(scores, max(1, len(scores) // FUTURE))
    return np.array([part.mean() for part in parts])


def simple_answers(windows: Values) -> dict[str, float]:
    """Mean squared error, in ppm², of forecasts that need no model.

    Args:
        windows: (n, 130), in ppm.
    """
    past, future = windows[:, :PAST], windows[:, PAST:]
    last = past[:, -1:]
    season = past[:, PAST - YEAR :][:, :FUTURE]  # the value 52 weeks before each forecast one
    forecasts = {
        "last value": last,
        "seasonal naive": season,
        "seasonal naive with drift": season + last - past[:, -1 - YEAR, None],
    }
    errors = {name: ((found - future) ** 2).mean(axis=1) for name, found in forecasts.items()}
    return {name: float(_independent(error).mean()) for name, error in errors.items()}


def _windows(weeks: Values, low: int, high: int) -> Values:
    """(n, 130): all runs of past and future weeks that lie in one part of the series, in ppm."""
    return np.lib.stride_tricks.sliding_window_view(weeks[low:high], PAST + FUTURE)


def _targets(windows: Values) -> Values:
    """(n, 26): the weeks to forecast, in ppm above the last known one."""
    return windows[:, PAST:] - windows[:, PAST - 1, None]


def _split(windows: Values, low: int, scale: float) -> Split:
    """The windows as the model sees them; `low` is the week at which the first one begins."""
    past = (windows[:, :PAST] - windows[:, PAST - 1, None]) / scale
    return Split(
        inputs=torch.from_numpy(past.astype(np.float32)).unsqueeze(2),
        targets=torch.from_numpy((_targets(windows) / scale).astype(np.float32)),
        indices=np.arange(low, low + len(windows)),
    )


def _read(path: Path) -> Values:
    """ppm of each week, (weeks,), gaps filled."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if header != ["date", "co2"]:
            raise ValueError(f"line 1: expected date,co2, found '{','.join(header)}'")
        weeks = [_week(line, row) for line, row in enumerate(rows, start=2)]
        return _series([day for day, _ in weeks], np.array([ppm for _, ppm in weeks]))
    except (OSError, ValueError, csv.Error) as error:
        raise unreadable("co2", "statsmodels", path, error) from None


def _week(line: int, row: list[str]) -> tuple[date, float]:
    """A week's last day, and its value or nan."""
    try:
        day, value = row
        ppm = float(value) if value else math.nan
        if value and not 200 < ppm < 1000:  # so that a lost digit or another unit is seen
            raise ValueError
        return datetime.strptime(day, "%Y%m%d").date(), ppm
    except ValueError:
        found = ",".join(row)
        raise ValueError(f"line {line}: expected a date and ppm, found '{found}'") from None


def _series(days: Sequence[date], values: Values) -> Values:
    """The values with gaps interpolated, having seen that there is one a week, and enough."""
    for line, (day, following) in enumerate(pairwise(days), start=3):
        if following - day != timedelta(days=7):
            raise ValueError(f"line {line}: {following} is not 7 days behind {day}")
    known = np.flatnonzero(~np.isnan(values))
    if len(values) < MIN_WEEKS or not {0, len(values) - 1} <= set(known.tolist()):
        raise ValueError(
            f"{len(values)} weeks, expected at least {MIN_WEEKS} and values at both ends"
        )
    filled: Values = np.interp(np.arange(len(values)), known, values[known])
    return filled
