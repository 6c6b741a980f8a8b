"""What is tried where static int8 loses too much, on a chain of products with two hard layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chains import batches, products, saved
from onnx import numpy_helper

from compress.data.samples import from_calls
from compress.export.graph import operators
from compress.export.loading import load_onnx
from compress.measure.agreement import Agreement
from compress.progress import quiet
from compress.quantization import candidates
from compress.quantization import rescue as module
from compress.quantization.building import Built, build
from compress.quantization.candidates import FP32_SUMS
from compress.quantization.config import QuantizeConfig
from compress.quantization.layers import layers
from compress.quantization.mixed_precision import Kept, Mixed
from compress.quantization.rescue import Rescued, rescue
from compress.quantization.sensitivity import Make
from compress.quantization.variants import Variants
from compress.runtime.onnxruntime import Session

#: One scale a matrix, so that a layer can be hard.
CONFIG = QuantizeConfig(per_channel=False)


class Hard:
    """The chain, its candidates, and what each loses: the relative error of its outputs."""

    def __init__(self, folder: Path) -> None:
        source = saved(products(8, hard=(2, 5)), folder)
        rows = np.concatenate([call[0] for call in batches((8,), count=4)])
        calls = from_calls("mine", [(rows,)], Session(source).declared())
        self.judge = Agreement(calls, source, "error")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "slower_layers", lambda *_, **__: frozenset())
            self.built = build(source, folder, self.judge, CONFIG)
        self.drops = {name: self.drop(path) for name, path in self.built.files.items()}

    def drop(self, path: Path) -> float:
        return float(self.judge.scores(Session(path), "validation").mean())

    def rescued(self, max_drop: float, built: Built | None = None) -> Rescued:
        return rescue(
            built or self.built, self.drops, self.drop, max_drop, scores=False, progress=quiet
        )


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Hard:
    return Hard(tmp_path_factory.mktemp("hard"))


def test_hard_layers_stay_fp32_where_nothing_cheaper_is_enough(hard: Hard):
    assert hard.drops["static"] > 0.5
    found = hard.rescued(0.1)
    assert {"static, ranges of least error", "static, SmoothQuant"} <= found.files.keys()
    (name,) = found.sensitivity
    assert name == "static, 2 of 8 layers fp32"
    assert operators(load_onnx(found.files[name]))["Gemm"] == {"fp32": 2, "int8 (static)": 6}
    assert found.drops == pytest.approx(
        {name: hard.drop(path) for name, path in found.files.items()}
    )
    assert found.drops[name] <= 0.1
    assert [entry.fp32 for entry in found.sensitivity[name]] == [True] * 2 + [False] * 6


def test_it_aims_at_half_of_the_budget_and_the_fastest_within_it_is_a_candidate_beside(
    hard: Hard, monkeypatch: pytest.MonkeyPatch
):
    search = module.mixed_precision

    def with_faster(source: Path, make: Make, *given: Any, **more: Any) -> Mixed:
        assert more["aim"] == pytest.approx(0.05)
        found = search(source, make, *given, **more)
        assert found.path is not None
        one, path = frozenset(sorted(found.fp32)[:1]), found.path.with_name("faster.onnx")
        make(one, path)
        return replace(found, faster=Kept(path, one, 0.08))

    monkeypatch.setattr(module, "mixed_precision", with_faster)
    found = hard.rescued(0.1)
    names = ["static, 2 of 8 layers fp32", "static, 1 of 8 layers fp32"]
    assert list(found.sensitivity) == names
    assert [sum(entry.fp32 for entry in found.sensitivity[name]) for name in names] == [2, 1]
    assert operators(load_onnx(found.files[names[1]]))["Gemm"] == {"fp32": 1, "int8 (static)": 7}
    assert found.drops[names[1]] == 0.08


@pytest.mark.parametrize(
    ("plain", "by_error", "expected"), [(0.1, 0.2, "minmax"), (0.2, 0.1, "mse")]
)
def test_parts_have_the_ranges_that_lose_less_with_every_layer_in_int8(
    plain: float, by_error: float, expected: str
):
    made: list[QuantizeConfig] = []
    prepared: Any = SimpleNamespace(
        config=QuantizeConfig(calibration="minmax"),
        has_pieces=True,
        slower=frozenset(),
        static=lambda *_, config, **__: made.append(config),
    )
    variants, name = Variants(prepared), "static, layers alone"
    variants.choose_ranges({name: plain, f"{name}, ranges of least error": by_error})
    variants.part_static((), Path("x.onnx"))
    assert made[0].calibration == expected


def test_layers_that_are_slower_in_int8_stay_fp32_in_all_that_is_tried(
    hard: Hard, monkeypatch: pytest.MonkeyPatch
):
    assert hard.built.prepared is not None
    every = sorted(layers(load_onnx(hard.built.prepared.file)))
    monkeypatch.setattr(hard.built.prepared, "slower", frozenset(every[:1]))
    found = hard.rescued(0.1)
    (name,) = found.sensitivity
    assert name == "static, 3 of 8 layers fp32"
    assert every[0] not in {entry.name for entry in found.sensitivity[name]}
    assert operators(load_onnx(found.files[name]))["Gemm"] == {"fp32": 3, "int8 (static)": 5}


def test_for_openvino_the_mixed_model_is_symmetric_as_well(
    hard: Hard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hard.built.prepared, "on_openvino", True)
    found = hard.rescued(0.1)
    (name,) = found.sensitivity
    path = found.files[f"{name}, symmetric"]
    assert operators(load_onnx(path)) == operators(load_onnx(found.files[name]))
    assert found.drops[f"{name}, symmetric"] == pytest.approx(hard.drop(path))
    graph = load_onnx(path).graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros
    assert not any(numpy_helper.to_array(t).any() for t in graph.initializer if t.name in zeros)


def test_nothing_is_tried_within_the_budget_or_where_one_method_was_asked_for(hard: Hard):
    assert hard.rescued(hard.drops["static"]) == Rescued()
    without = Built(hard.built.files, {}, None)
    assert hard.rescued(0.1, without) == Rescued()


def test_what_is_for_openvino_alone_keeps_no_budget_for_onnxruntime(hard: Hard):
    known = hard.drops
    try:
        hard.drops = known | {f"static, layers alone{FP32_SUMS}": 0.0}
        assert hard.rescued(0.1).files
    finally:
        hard.drops = known


def test_a_budget_that_no_part_keeps_says_how_near_it_came(hard: Hard):
    found = hard.rescued(0.0)
    assert found.sensitivity == {}
    assert found.failures["static, mixed precision"].startswith(
        "no part of the layers could be int8 within the budget, in "
    )


@pytest.mark.parametrize(
    ("alone", "with_tables", "kept"),
    [(0.001, 0.005, True), (0.001, 0.006, False), (0.008, 0.008, True), (0.012, 0.02, False)],
)
def test_embeddings_become_int8_where_they_leave_half_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: float, with_tables: float, kept: bool
):
    def smaller(path: Path) -> bool:
        path.write_bytes(b"smaller")
        return True

    monkeypatch.setattr(module, "quantize_tables", smaller)
    monkeypatch.setattr(module, "copy", lambda source, to: to.write_bytes(source.read_bytes()))
    file = tmp_path / "int8.onnx"
    file.write_bytes(b"int8")
    found = module._with_tables(file, alone, lambda _: with_tables, 0.01)
    assert (file.read_bytes(), found) == ((b"smaller", with_tables) if kept else (b"int8", alone))
