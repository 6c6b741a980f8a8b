"""Statistics of earlier passes: found by what they follow from, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import convolutions, whole

from compress.data.task import Task
from compress.errors import InputError
from compress.measure.judge import TaskJudge
from compress.quantization import candidates
from compress.quantization.building import build, make_all
from compress.quantization.calibration import Statistics, collect, shared, stored
from compress.quantization.calibration.observed import STATIC_KINDS
from compress.quantization.calibration.shared import Calibration
from compress.quantization.calibration.stored import Store, pass_key, samples_digest
from compress.quantization.config import QuantizeConfig
from compress.quantization.variants import BY_ROWS, Variants
from compress.runtime.interface import Feeds

BATCHES: list[Feeds] = [(whole(4, 2, 8, 8),), (whole(3, 2, 8, 8, seed=1),)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "model.onnx")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that samples were run through."""
    found: list[Path] = []
    plain = shared.collect

    def counted(source: Path, *given: object, **settings: object) -> Statistics:
        found.append(source)
        return plain(source, *given, **settings)

    monkeypatch.setattr(shared, "collect", counted)
    return found


def calibration(store: Store, batches: list[Feeds] | None = None) -> Calibration:
    return Calibration(batches or BATCHES, QuantizeConfig(), store=store)


def test_a_pass_is_not_repeated_and_gives_the_same_ranges(
    model: Path, tmp_path: Path, passes: list[Path]
):
    file = tmp_path / "kept" / "calibration.npz"
    first = calibration(Store(file))
    wanted = first.passed(model, channels={"c2": 1})
    account = first.account()
    assert account.pop("seconds") >= 0
    assert account == {"samples": 7, "reused": False, "passes": 1, "passes_reused": 0}
    again = calibration(Store(file))
    found = again.passed(model, channels={"c2": 1})
    account = again.account()
    assert account.pop("seconds") == 0
    assert account == {"samples": 7, "reused": True, "passes": 0, "passes_reused": 1}
    assert len(passes) == 1
    for method in ("minmax", "moving-average", "percentile", "entropy", "mse"):
        assert found.ranges(method) == wanted.ranges(method)
    kept, plain = found.tensors["c2"].channels, wanted.tensors["c2"].channels
    assert kept is not None and plain is not None  # noqa: PT018
    np.testing.assert_array_equal(kept.mean, plain.mean)
    assert calibration(Store(file)).account() == {}


def test_each_pass_of_several_is_found(model: Path, tmp_path: Path, passes: list[Path]):
    for _ in range(2):
        known = calibration(Store(tmp_path / "c.npz"))
        known.passed(model)
        known.passed(model, channels={"c2": 1})
        known.passed(model, kinds=("Gemm",))
    assert len(passes) == 3


@pytest.mark.parametrize("changed", ["model", "values", "batches", "type", "onnxruntime"])
def test_what_it_follows_from_must_be_the_same(
    changed: str, model: Path, tmp_path: Path, passes: list[Path], monkeypatch: pytest.MonkeyPatch
):
    calibration(Store(tmp_path / "c.npz")).passed(model)
    batches = list(BATCHES)
    if changed == "model":
        loaded = onnx.load(model)
        loaded.graph.doc_string = "another"
        onnx.save(loaded, model)
    elif changed == "values":
        batches[1] = (batches[1][0] + 1,)
    elif changed == "batches":
        batches = [(np.concatenate([feeds[0] for feeds in BATCHES]),)]
    elif changed == "onnxruntime":
        monkeypatch.setattr(stored.onnxruntime, "__version__", "0")
    known = calibration(Store(tmp_path / "c.npz"), batches)
    if changed == "type":
        floats, doubles = ([(np.zeros(2, kind),)] for kind in (np.float32, np.int32))
        assert samples_digest(floats) != samples_digest(doubles)
    else:
        known.passed(model)
        assert len(passes) == 2


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "folder"])
def test_a_damaged_file_costs_a_pass_and_is_told(
    damage: str, model: Path, tmp_path: Path, passes: list[Path]
):
    file = tmp_path / "c.npz"
    calibration(Store(file)).passed(model)
    whole_file = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        size = len(whole_file)
        content = {"truncated": whole_file[: size // 2], "foreign": b"{}", "empty": b""}
        file.write_bytes(content[damage])
    known = calibration(Store(file))
    known.passed(model)
    assert len(passes) == 2
    note = known.account()["note"]
    if damage == "folder":
        assert note.startswith(f"not kept: {file}: cannot be written: ")
    else:
        assert note.startswith(f"not used: {file}: not saved statistics (")
        assert note.endswith("; calibrate again.")
        calibration(Store(file)).passed(model)
        assert len(passes) == 2


def test_an_older_file_is_read_and_the_newer_written(
    model: Path, tmp_path: Path, passes: list[Path]
):
    older, newer = tmp_path / "older.npz", tmp_path / "newer.npz"
    calibration(Store(older)).passed(model)
    known = calibration(Store(newer, older))
    known.passed(model)
    assert not newer.exists()
    known.passed(model, kinds=("Gemm",))
    assert len(passes) == 2
    calibration(Store(newer)).passed(model)
    assert len(passes) == 2


def test_the_last_that_were_asked_for_are_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stored, "_MOST", 2)
    found = collect(model, BATCHES)
    store = Store(tmp_path / "c.npz")
    store.add("a", found)
    store.add("b", found)
    assert store.find("a") is not None
    store.add("c", found)
    again = Store(tmp_path / "c.npz")
    assert [key for key in "abc" if again.find(key)] == ["a", "c"]
    with pytest.raises(InputError, match="statistics of several passes; expected those of one"):
        Statistics.load(tmp_path / "c.npz", model)


def test_no_candidate_needs_a_second_pass(
    trained_onnx: Path,
    tiny_task: Task,
    tmp_path: Path,
    passes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
):
    # By times it may be others in each run.
    monkeypatch.setattr(candidates, "slower_layers", lambda *given, **_: frozenset(given[2][:1]))
    made: list[dict[str, bytes]] = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = Store(tmp_path / "c.npz")
        built = build(trained_onnx, folder, TaskJudge(tiny_task), QuantizeConfig(), store=store)
        assert built.prepared is not None
        files, failures = make_all(Variants(built.prepared).makers(), folder)
        assert set(failures) == {BY_ROWS}, "its convolutions go along two axes"
        made.append({name: path.read_bytes() for name, path in (built.files | files).items()})
        names = [path.name for path in passes]
        assert names == ["prepared.onnx", "equalized.onnx", "corrected.onnx"]
        assert built.calibration()["passes"] == (0 if number else 3)
    assert made[0] == made[1]


def test_keys_do_not_depend_on_the_order_of_settings(model: Path):
    one = pass_key(model, "s", channels={"a": 0, "b": 1}, kinds=STATIC_KINDS)
    other = pass_key(model, "s", channels={"b": 1, "a": 0}, kinds=sorted(STATIC_KINDS))
    assert one == other
