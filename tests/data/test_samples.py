"""Inputs from the user's own files: what fits a model, how it is split, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.samples import (
    Declared,
    Samples,
    from_calls,
    inputs_like,
    read_data,
    to_samples,
)
from compress.errors import InputError, ShapeMismatch

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
IMAGES = [Declared("x", FLOAT, (None, 1, 4))]
TOKENS = [Declared("ids", INT, (None, None)), Declared("mask", INT, (None, None))]


def rows(n: int, *shape: int) -> np.ndarray:
    return np.arange(n * int(np.prod(shape)), dtype=np.float32).reshape(n, *shape)


def saved(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def load(reference: str, inputs: list[Declared]) -> Samples:
    return to_samples(reference, read_data(reference), inputs)


def test_a_file_gives_a_sample_a_row_in_the_order_of_the_models_inputs(tmp_path: Path):
    ids, mask = np.arange(12).reshape(4, 3), np.ones((4, 3), dtype=np.int64)
    found = load(saved(tmp_path / "a.npz", mask=mask, ids=ids), TOKENS)
    assert (len(found), found.batched) == (4, True)
    assert np.array_equal(found.take([0, 2])[0], ids[[0, 2]])
    assert np.array_equal(found.take([3])[1], mask[3:])


def test_one_array_under_any_name_serves_a_model_with_one_input(tmp_path: Path):
    assert len(load(saved(tmp_path / "a.npz", pictures=rows(5, 1, 4)), IMAGES)) == 5


@given(n=st.integers(3, 200), seed=st.integers(0, 5))
def test_parts_are_disjoint_hold_all_and_follow_from_the_seed(n: int, seed: int):
    whole = from_calls("x", [(rows(n, 1, 4),)], IMAGES)
    parts = whole.split(seed)
    held = [float(entry[0][0, 0, 0]) for part in parts.values() for entry in part.entries]
    assert sorted(held) == [4.0 * row for row in range(n)]
    assert min(len(part) for part in parts.values()) >= 1
    assert len(parts["validation"]) == len(parts["test"])
    again = whole.split(seed)["test"].entries
    assert [entry[0].tolist() for entry in parts["test"].entries] == [
        entry[0].tolist() for entry in again
    ]


def test_samples_of_equal_shapes_share_a_call():
    lengths = [5, 3, 5, 5, 3]
    calls = [(np.ones((1, n), np.int64),) * 2 for n in lengths]
    found = from_calls("x", calls, TOKENS)
    assert found.chunks(2) == [[0, 2], [3], [1, 4]]
    assert found.take([0, 2])[0].shape == (2, 5)
    assert found.typical(4)[0].shape == (4, 5)
    assert found.typical(1)[0].shape == (1, 5)


def test_a_file_that_fixes_its_batch_gets_samples_of_that_size():
    fixed = [Declared("x", FLOAT, (2, 1, 4))]
    found = from_calls("x", [(rows(7, 1, 4),)], fixed)
    assert not found.batched
    assert [entry[0].shape for entry in found.entries] == [(2, 1, 4)] * 3
    assert found.chunks(32) == [[0], [1], [2]]
    assert found.typical(32)[0].shape == (2, 1, 4)


def test_inputs_that_share_no_first_axis_stay_whole_calls():
    inputs = [Declared("x", FLOAT, (None, 4)), Declared("state", FLOAT, (2, None, 3))]
    calls = [(rows(1, 4), rows(2, 1, 3))] * 3
    found = from_calls("x", calls, inputs)
    assert (len(found), found.batched) == (3, False)
    with pytest.raises(ShapeMismatch, match=re.escape("'state' is float32 [3, 1, 3]; the model")):
        from_calls("x", [(rows(1, 4), rows(3, 1, 3))], inputs)


def test_a_factory_gives_calls(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def calls():\n"
        "    for n in (1, 2):\n"
        "        yield {'x': np.ones((n, 1, 4), np.float32)}\n"
        "def arrays(): return [np.ones((3, 1, 4), np.float32)]\n"
        "def one(): return {'x': np.ones((3, 1, 4), np.float32)}\n"
        "def nothing(): return []\n"
        "def number(): return 3\n"
    )
    assert len(load(f"{file}:calls", IMAGES)) == 3
    assert len(load(f"{file}:arrays", IMAGES)) == 3
    assert len(load(f"{file}:one", IMAGES)) == 3
    with pytest.raises(InputError, match=r":nothing: gave no calls; expected inputs for x\.$"):
        load(f"{file}:nothing", IMAGES)
    with pytest.raises(InputError, match="'int' object is not iterable"):
        load(f"{file}:number", IMAGES)
    with pytest.raises(InputError, match=r"AttributeError: .*'absent'"):
        load(f"{file}:absent", IMAGES)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": rows(3, 1, 4), "z": rows(3, 1, 4)}, "holds y, z; the model takes x. Name the"),
        ({"x": rows(3, 1, 4).astype(float)}, "input 'x' is float64 [3, 1, 4]; the model takes f"),
        ({"x": rows(3, 2, 4)}, "input 'x' is float32 [3, 2, 4]; the model takes float32 [?, 1, 4]"),
        ({"x": np.full((3, 1, 4), np.nan, np.float32)}, "'x' holds 12 values that are NaN or inf"),
        ({"x": rows(0, 1, 4)}, "is empty; expected samples of x."),
    ],
)
def test_what_does_not_fit_the_model_is_told_in_one_line(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
):
    reference = saved(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load(reference, IMAGES)
    assert str(caught.value).startswith(reference)
    assert "\n" not in str(caught.value)


def test_a_model_that_declares_nothing_takes_what_the_first_call_has():
    image = rows(2, 1, 4)
    assert inputs_like("d", [image], ["x", "scale"]) == IMAGES
    assert inputs_like("d", {"any": image}, ["x"]) == IMAGES
    found = inputs_like("d", [{"b": image, "a": image}], ["a", "b", "c"])
    assert [entry.name for entry in found] == ["a", "b"]
    with pytest.raises(ShapeMismatch, match=r"^d: holds a, z; the model takes a, b\.$"):
        inputs_like("d", [{"a": image, "z": image}], ["a", "b"])
    with pytest.raises(ShapeMismatch, match=r"^d: holds nothing; the model takes a\.$"):
        inputs_like("d", [], ["a"])


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"no such file; expected one by numpy\.savez\.$"):
        read_data(f"npz:{tmp_path / 'absent.npz'}")
    whole = tmp_path / "a.npz"
    saved(whole, x=rows(100, 1, 4))
    for name, content in {
        "empty": b"",
        "text": b"no archive",
        "cut": whole.read_bytes()[:300],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read \(.*\); expected a file by numpy"):
            read_data(f"npz:{tmp_path / name}")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read \(Object arrays cannot be loaded"):
        read_data(f"npz:{tmp_path / 'objects.npz'}")


def test_samples_that_are_all_the_same_would_say_nothing():
    zeros = np.zeros((5, 1, 4), np.float32)
    with pytest.raises(InputError, match=r"^x: all 5 samples are the same; ranges and answers"):
        from_calls("x", [(zeros,)], IMAGES).split(0)
    zeros[4, 0, 2] = 1
    from_calls("x", [(zeros,)], IMAGES).split(0)


def test_too_few_samples_to_calibrate_choose_and_judge():
    with pytest.raises(InputError, match="x: samples: 1; at least 3 are needed: one to cal"):
        from_calls("x", [(rows(1, 1, 4),)], IMAGES).split(0)
