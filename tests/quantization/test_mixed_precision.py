"""The search for the fewest layers in fp32, on real networks and on drops that are given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from chains import StaticMaker, batches, convolutions, products, saved
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import InputError, ModelFileError
from compress.quantization.divergence import relative_error
from compress.quantization.layers import layers
from compress.quantization.mixed_precision import (
    Mixed,
    mixed_precision,
    predict,
    remaining_errors,
    within_bound,
)
from compress.runtime.onnxruntime import Session

ROWS = (8,)


def bound(count: int) -> float:
    return 2 + math.log2(count)


class Network:
    """A chain of products whose int8 file is made once; drops are told by how many are in fp32."""

    def __init__(self, count: int, folder: Path) -> None:
        self.source = saved(products(count), folder)
        self.groups = layers(onnx.load(self.source))
        self.samples = batches(ROWS, count=1, rows=4)
        StaticMaker(self.source, self.samples)(frozenset(), folder / "int8.onnx")
        self._int8 = (folder / "int8.onnx").read_bytes()
        self.kept: dict[Path, frozenset[str]] = {}

    def make(self, keep: frozenset[str], path: Path) -> None:
        self.kept[path] = keep
        path.write_bytes(self._int8)

    def search(
        self, drop: Callable[[frozenset[str]], float], folder: Path, max_drop: float = 1.0, **more
    ) -> Mixed:
        self.kept = {}
        return mixed_precision(
            self.source,
            self.make,
            lambda path: drop(self.kept[path]),
            self.groups,
            self.samples,
            max_drop,
            folder,
            **more,
        )


@pytest.fixture(scope="module", params=[8, 20, 64])
def network(request, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(request.param, tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(8, tmp_path_factory.mktemp("eight"))


def test_the_least_number_is_found_whatever_it_is(network: Network, tmp_path: Path):
    count = len(network.groups)
    for least in {0, 1, 2, count // 2, count - 1}:
        found = network.search(lambda kept, least=least: 2.0 * (len(kept) < least), tmp_path)
        assert len(found.fp32) == least
        assert len(found.evaluations) <= bound(count)
        assert (found.path, found.drop) == (tmp_path / f"mixed-{least}.onnx", 0.0)
        assert network.kept[found.path] == found.fp32
        assert [path.name for path in tmp_path.iterdir()] == [f"mixed-{least}.onnx"]
        if least:  # the most sensitive ones
            assert found.fp32 == {entry.name for entry in found.sensitivities[:least]}
            assert [entry.fp32 for entry in found.sensitivities] == [True] * least + [False] * (
                count - least
            )
            assert [entry.name for entry in found.kinds] == ["products"]
        found.path.unlink()


def test_where_drops_follow_the_sensitivities_few_evaluations_are_enough(
    network: Network, tmp_path: Path
):
    order = network.search(lambda kept: 2.0, tmp_path).sensitivities
    error = dict(zip((e.name for e in order), (e.divergence for e in order), strict=True))

    def drop(kept: frozenset[str]) -> float:
        return math.sqrt(sum(value**2 for name, value in error.items() if name not in kept))

    for least in (1, 2, 4):
        allowed = drop(frozenset(entry.name for entry in order[:least])) * 1.0001
        found = network.search(drop, tmp_path, allowed)
        assert len(found.fp32) == least
        assert len(found.evaluations) <= bound(len(network.groups))
        assert found.drop <= allowed


def test_a_budget_that_int8_keeps_takes_one_evaluation(network: Network, tmp_path: Path):
    found = network.search(lambda kept: 1.0, tmp_path)
    assert [(entry.fp32, entry.drop) for entry in found.evaluations] == [(0, 1.0)]
    assert (found.fp32, found.sensitivities, found.stopped) == (frozenset(), [], False)
    assert found.path == tmp_path / "mixed-0.onnx"


@pytest.mark.parametrize("drop", [1.5, math.nan, math.inf])
def test_a_budget_that_nothing_keeps(network: Network, drop: float, tmp_path: Path):
    found = network.search(lambda kept: drop, tmp_path)
    assert (found.path, found.drop, found.fp32) == (None, None, frozenset())
    assert len(found.evaluations) <= bound(len(network.groups))
    assert max(entry.fp32 for entry in found.evaluations) == len(network.groups) - 1
    assert len(found.sensitivities) == len(network.groups)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(drops=st.lists(st.floats(0, 2), min_size=9, max_size=9), allowed=st.floats(-0.5, 2))
def test_drops_that_do_not_fall_give_a_model_that_was_evaluated_within_the_budget(
    drops: list[float], allowed: float, eight: Network, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("search")
    found = eight.search(lambda kept: drops[len(kept)], folder, allowed)
    assert len(found.evaluations) <= bound(8)
    within = [entry.fp32 for entry in found.evaluations if entry.drop <= allowed + 1e-9]
    if within:
        assert found.path is not None
        assert len(found.fp32) == min(within)
        assert drops[len(found.fp32)] == found.drop <= allowed + 1e-9
    else:
        assert found.path is None
    assert [found.path] * bool(within) == list(folder.iterdir())


@pytest.mark.parametrize(("aim", "least"), [(0.7, 1), (0.35, 5), (0.05, 8)])
def test_a_lower_aim_gives_the_fastest_within_the_budget_beside(
    eight: Network, tmp_path: Path, aim: float, least: int
):
    found = eight.search(lambda kept: (8 - len(kept)) / 10, tmp_path, 0.7, aim=aim)
    assert len(found.evaluations) <= bound(8)
    within = [entry.fp32 for entry in found.evaluations if entry.drop <= 0.7]
    aimed = [count for count in within if count >= least]
    assert len(found.fp32) == min(aimed or within)
    if not aimed or min(aimed) == min(within):
        assert found.faster is None
        assert list(tmp_path.iterdir()) == [found.path]
        return
    assert found.faster is not None
    assert len(found.faster.fp32) == min(within)
    assert aim < found.faster.drop == (8 - min(within)) / 10 <= 0.7
    assert eight.kept[found.faster.path] == found.faster.fp32 < found.fp32
    assert set(tmp_path.iterdir()) == {found.path, found.faster.path}


def test_an_interrupt_leaves_the_best_so_far_and_its_evidence(eight: Network, tmp_path: Path):
    def drop(kept: frozenset[str]) -> float:
        if len(kept) == 2:
            raise KeyboardInterrupt
        return 2.0 * (len(kept) < 2)

    found = eight.search(drop, tmp_path)
    assert found.stopped
    assert len(found.fp32) > 2
    assert found.path == tmp_path / f"mixed-{len(found.fp32)}.onnx"
    assert found.drop == 0
    assert eight.kept[found.path] == found.fp32
    assert 2 not in [entry.fp32 for entry in found.evaluations]
    assert list(tmp_path.iterdir()) == [found.path]


def test_an_interrupt_at_the_first_evaluation_leaves_nothing(eight: Network, tmp_path: Path):
    def interrupt(kept: frozenset[str]) -> float:
        raise KeyboardInterrupt

    found = eight.search(interrupt, tmp_path)
    assert (found.path, found.evaluations, found.stopped) == (None, (), True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [1, 2, 5, 14])
def test_stop_is_asked_before_every_step(eight: Network, asked: int, tmp_path: Path):
    left = iter([False] * (asked - 1))
    found = eight.search(
        lambda kept: 2.0 * (len(kept) < 5), tmp_path, stop=lambda: next(left, True)
    )
    assert found.stopped
    assert [path for path in (found.path,) if path] == list(tmp_path.iterdir())
    assert len(found.evaluations) == {1: 0, 2: 1, 5: 1}.get(asked, len(found.evaluations))


@pytest.mark.parametrize("error", [ValueError, ModelFileError])
def test_a_model_that_cannot_be_had_counts_as_over_the_budget(
    eight: Network, error: type[Exception], tmp_path: Path
):
    def drop(kept: frozenset[str]) -> float:
        if len(kept) < 5 and kept:
            raise error("no scale\nfor this")
        return 2.0 * (len(kept) < 3)

    found = eight.search(drop, tmp_path)
    assert len(found.fp32) == 5
    failures = {entry.failure for entry in found.evaluations if entry.drop is None}
    assert failures == {f"{error.__name__}: no scale"}


def test_where_not_even_int8_can_be_built(eight: Network, tmp_path: Path):
    def make(keep: frozenset[str], path: Path) -> None:
        raise ValueError("broken")

    found = mixed_precision(
        eight.source, make, lambda _: 0.0, eight.groups, eight.samples, 1.0, tmp_path
    )
    assert found.path is None
    assert [entry.failure for entry in found.evaluations] == ["ValueError: broken"]


def test_wrong_input_is_not_a_model_over_the_budget(eight: Network, tmp_path: Path):
    def drop(kept: frozenset[str]) -> float:
        raise InputError("data: no labels")

    with pytest.raises(InputError, match="data: no labels"):
        eight.search(drop, tmp_path)
    twice = onnx.load(eight.source)
    twice.graph.node[2].name = "layer0"
    onnx.save(twice, tmp_path / "twice.onnx")
    with pytest.raises(ModelFileError, match=re.escape("twice.onnx: 2 nodes named 'layer0'")):
        mixed_precision(
            *(tmp_path / "twice.onnx", eight.make, lambda _: 0.0),
            *(eight.groups, eight.samples, 1.0, tmp_path),
        )


@pytest.mark.parametrize("hard", [(2,), (1, 5)])
def test_real_networks_keep_their_hard_layers_in_fp32(hard: tuple[int, ...], tmp_path: Path):
    source, samples = saved(products(8, hard=hard), tmp_path), batches(ROWS, rows=64)
    make, expected = StaticMaker(source, samples), [[Session(source).run(x)] for (x,) in samples]

    def evaluate(path: Path) -> float:
        return relative_error(expected, [[Session(path).run(x)] for (x,) in samples])

    found = mixed_precision(
        source, make, evaluate, layers(onnx.load(source)), samples[:1], 0.1, tmp_path
    )
    assert found.fp32 == {f"layer{at}" for at in hard}
    assert len(found.evaluations) <= bound(8)
    assert found.path is not None
    assert found.drop == evaluate(found.path) <= 0.1 < found.evaluations[0].drop
    assert make.kept[found.path.name] == found.fp32


def test_several_outputs_and_convolutions(tmp_path: Path):
    source, samples = saved(convolutions(hard=1), tmp_path), batches((2, 8, 8))
    make, session = StaticMaker(source, samples), Session(source)
    expected = [session.every_output(batch) for batch in samples]

    def evaluate(path: Path) -> float:
        session = Session(path)
        return relative_error(expected, [session.every_output(batch) for batch in samples])

    found = mixed_precision(
        source, make, evaluate, layers(onnx.load(source)), samples, 0.05, tmp_path, scores=True
    )
    assert found.fp32 == {"conv1"}
    assert [entry.name for entry in found.kinds] == ["convolutions", "products"]
    assert {entry.measure for entry in found.sensitivities} == {"KL divergence"}


def test_errors_add_up_as_squares():
    assert remaining_errors([4.0, 3.0, 0.0]) == [5.0, 3.0, 0.0]
    assert remaining_errors([math.inf, 1.0]) == [math.inf, 1.0]


@pytest.mark.parametrize(
    ("errors", "low", "share", "expected"),
    [
        ([5.0, 3.0, 1.0], 0, 0.6, 1),
        ([5.0, 3.0, 1.0], 0, 0.5, 2),
        ([5.0, 3.0, 1.0], 1, 0.5, 2),
        ([5.0, 3.0, 1.0], 0, 0.1, None),
        ([5.0, 3.0, 1.0], 0, math.nan, None),
        ([math.inf, math.inf, 1.0], 0, 0.0, 2),
    ],
)
def test_where_to_look_first(errors: list[float], low: int, share: float, expected: int | None):
    assert predict(errors, low, share) == expected


@given(count=st.integers(2, 500), data=st.data())
def test_any_guess_leaves_enough_evaluations(count: int, data: st.DataObject):
    low, high, left, taken = 0, count, count.bit_length(), 1
    while high - low > 1:
        at = within_bound(data.draw(st.integers(-5, 600)), low, high, left)
        assert low < at < high
        low, high = (at, high) if data.draw(st.booleans()) else (low, at)
        left, taken = left - 1, taken + 1
    assert taken <= bound(count)
