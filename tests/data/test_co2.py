"""The CO2 series: chronological splits that share no week, and forecasts by hand."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data import co2
from compress.data.references import load_task
from compress.data.task import Task
from compress.errors import InputError
from compress.measure.quality import quality


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("co2")


@pytest.fixture(scope="module")
def weeks() -> list[float]:
    """ppm of each week; a gap filled by walking from its last known week to the next."""
    with co2.source().open() as file:
        values = [float(row["co2"]) if row["co2"] else None for row in csv.DictReader(file)]
    known = [week for week, value in enumerate(values) if value is not None]
    for left, right in pairwise(known):
        rise = (values[right] - values[left]) / (right - left)
        for week in range(left + 1, right):
            values[week] = values[left] + rise * (week - left)
    return values


def splits(task: Task):
    return task.train, task.validation, task.test


def test_sizes_and_facts(task):
    assert [tuple(part.inputs.shape) for part in splits(task)] == [
        (1470, 104, 1),
        (99, 104, 1),
        (328, 104, 1),
    ]
    assert [tuple(part.targets.shape) for part in splits(task)] == [(1470, 26), (99, 26), (328, 26)]
    assert task.train.inputs.dtype == task.train.targets.dtype == torch.float32
    assert task.facts == {"in_features": 1, "outputs": 26, "max_length": 104}
    assert task.kind == "regression"
    assert task.classes[0] == "week 1"
    assert task.classes[-1] == "week 26"
    assert task.output_shape(task.test.take(torch.arange(3))) == (3, 26)


def test_splits_follow_each_other_and_share_no_week(task, weeks):
    reached = [(part.indices[0], part.indices[-1] + 130) for part in splits(task)]
    assert reached == [(0, 1599), (1599, 1827), (1827, len(weeks))]
    assert len(weeks) == 2284
    for part in splits(task):
        assert (np.diff(part.indices) == 1).all()


def test_windows_are_the_series(task, weeks):
    scale = task.preprocessing["divide"]
    for part in splits(task):
        for row in (0, 31, len(part) - 1):
            start = part.indices[row]
            last = weeks[start + 103]
            raw = np.array(weeks[start : start + 130])
            np.testing.assert_allclose(
                part.inputs[row, :, 0] * scale + last, raw[:104], rtol=0, atol=1e-4
            )
            np.testing.assert_allclose(
                part.targets[row] * scale + last, raw[104:], rtol=0, atol=1e-4
            )
            assert part.inputs[row, -1, 0] == 0


def test_scale_is_of_the_training_targets(task, weeks):
    rises = [weeks[t + h] - weeks[t] for t in range(103, 1599 - 26) for h in range(1, 27)]
    assert task.preprocessing["divide"] == pytest.approx(np.std(rises))
    assert task.train.targets.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_gaps_are_in_training_alone(task):
    with co2.source().open() as file:
        gaps = [week for week, row in enumerate(csv.DictReader(file)) if not row["co2"]]
    assert len(gaps) == 59
    assert max(gaps) < task.validation.indices[0]


def test_splits_are_the_same_every_time(task):
    assert torch.equal(co2.load().test.inputs, task.test.inputs)


def test_metric_is_in_square_ppm(task):
    assert task.metric.name == "mean squared error (ppm²)"
    assert not task.metric.higher_is_better
    targets = task.test.targets[:4].numpy()
    off = targets + np.float32(0.5) / np.float32(task.preprocessing["divide"])
    found = task.metric.score(off, targets)
    assert found.shape == (1,)  # four neighbours are one sample
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)


def test_the_absolute_error_stands_beside_it(task):
    targets = task.test.targets.numpy()
    off = targets - np.float32(0.5) / np.float32(task.preprocessing["divide"])
    (score,) = task.further.values()
    np.testing.assert_allclose(score(off, targets), 0.5, rtol=1e-5)
    found = quality(task, targets * 0, task.test)
    expected = np.abs(targets.astype(np.float64)).mean() * task.preprocessing["divide"]
    assert found.details["mean absolute error (ppm)"] == pytest.approx(expected, rel=0.01)


def test_simple_forecasts_are_those_by_hand(task, weeks):
    errors: dict[str, list[float]] = {name: [] for name in task.simple}
    for start in task.test.indices:
        now = start + 103
        for ahead in range(1, 27):
            truth = weeks[now + ahead]
            errors["last value"].append((weeks[now] - truth) ** 2)
            season = weeks[now + ahead - 52]
            errors["seasonal naive"].append((season - truth) ** 2)
            drift = weeks[now] - weeks[now - 52]
            errors["seasonal naive with drift"].append((season + drift - truth) ** 2)
    for name, found in task.simple.items():
        blocks = np.array_split(np.array(errors[name]).reshape(328, 26).mean(axis=1), 12)
        assert found == pytest.approx(np.mean([block.mean() for block in blocks])), name
    assert task.simple["seasonal naive with drift"] < task.simple["seasonal naive"] / 4


def test_last_value_is_a_model_that_answers_zero(task):
    zeros = np.zeros((328, 26), dtype=np.float32)
    found = task.metric.score(zeros, task.test.targets.numpy()).mean()
    assert found == pytest.approx(task.simple["last value"], rel=1e-5)


def lines(count: int) -> list[str]:
    """A file in the real format: a line and a season."""
    first = date(2000, 1, 1)
    return [
        "date,co2",
        *(
            f"{first + timedelta(days=7 * week):%Y%m%d},{350 + week / 50 + np.sin(week / 8.3):.1f}"
            for week in range(count)
        ),
    ]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "co2.csv"
    monkeypatch.setattr(co2, "source", lambda: found)
    return found


def test_shortest_series(path):
    path.write_text("\n".join(lines(1300)) + "\n")
    small = co2.load()
    assert [len(part) for part in splits(small)] == [781, 1, 131]
    path.write_text("\r\n".join(lines(1300)))
    assert torch.equal(co2.load().train.inputs, small.train.inputs)


def test_gap_is_interpolated(path):
    content = lines(1300)
    for week, value in ((9, "350.0"), (10, ""), (11, ""), (12, "353.0")):
        content[week + 1] = f"{content[week + 1].split(',')[0]},{value}"
    path.write_text("\n".join(content))
    small = co2.load()
    steps = small.train.inputs[0, 9:13, 0].diff() * small.preprocessing["divide"]
    np.testing.assert_allclose(steps, [1.0, 1.0, 1.0], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({0: "week,ppm"}, "line 1: expected date,co2, found 'week,ppm'"),
        ({0: ""}, "line 1: expected date,co2, found ''"),
        ({5: "20000129,n/a"}, "line 6: expected a date and ppm, found '20000129,n/a'"),
        ({5: "20000129,nan"}, "line 6: expected a date and ppm, found '20000129,nan'"),
        ({5: "20000129,35.1"}, "line 6: expected a date and ppm, found '20000129,35.1'"),
        ({5: "29.1.2000,351"}, "line 6: expected a date and ppm, found '29.1.2000,351'"),
        ({5: "20000129"}, "line 6: expected a date and ppm, found '20000129'"),
        ({5: ""}, "line 6: expected a date and ppm, found ''"),
        ({5: "20000130,350.1"}, "line 6: 2000-01-30 is not 7 days behind 2000-01-22"),
        ({1: "20000101,"}, "1300 weeks, expected at least 1300 and values at both ends"),
        ({1300: "20241123,"}, "1300 weeks, expected at least 1300 and values at both ends"),
    ],
)
def test_changed_layout_names_the_line(path, changes, reason):
    content = lines(1300)
    for line, text in changes.items():
        content[line] = text
    path.write_text("\n".join(content))
    message = message_of()
    assert f"({reason});" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "line 1: expected date,co2, found ''"),
        ("date,co2\n", "0 weeks, expected at least 1300"),
        ("\n".join(lines(1299)), "1299 weeks, expected at least 1300"),
        ("\n".join(lines(1500))[:-7], "line 1501: expected a date and ppm, found '2028092'"),
        ("\n".join([*lines(0), *(line[:9] for line in lines(1500)[1:])]), "values at both ends"),
    ],
)
def test_empty_or_truncated_file_is_one_line(path, content, reason):
    path.write_text(content)
    assert reason in message_of()


def test_wrong_encoding_is_one_line(path):
    path.write_text("date,co2\n", encoding="utf-16")
    assert "can't decode byte 0xff" in message_of()


def test_file_that_is_gone_is_one_line(path):
    assert "No such file" in message_of()


def message_of() -> str:
    with pytest.raises(InputError) as caught:
        co2.load()
    message = str(caught.value)
    assert message.startswith("task 'co2': co2.csv of statsmodels cannot be read (")
    assert message.endswith("); pip install --force-reinstall statsmodels.")
    assert "\n" not in message
    return message
