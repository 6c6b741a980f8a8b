"""Mixed precision by sensitivity: what it keeps, in how many evaluations, and by which order.

    python -m benchmarks.mixed_precision          10 minutes, and training where needed

The ResNet-20, GPT and Transformer of the recipes, with layers made hard: a channel between two of
them is 300 times as large, which changes nothing in fp32. Static int8 of convolutions and products,
one scale a tensor; quality on the validation split. For each model:

- all in int8, the mixed model, and the way that costs an evaluation a layer: quantize each alone,
  evaluate, then leave one after the other in fp32 until the budget holds;
- how many layers have to stay in fp32 by each of four orders, and what the order takes: each layer
  alone by switches in one graph (relative error of the outputs, or KL divergence), by a file for
  each, and by the error of the layer's own output.

Stored in benchmarks/results; the models are those of benchmarks.distillation, in runs/distillation.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from scipy.stats import spearmanr

from benchmarks.distillation import make_teacher
from compress.artifact import load_artifact
from compress.data.references import load_task
from compress.measure.judge import TaskJudge
from compress.measure.quality import run_onnx
from compress.quantization import sensitivity
from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.editing import Edit
from compress.quantization.layers import layers
from compress.quantization.mixed_precision import mixed_precision
from compress.quantization.rewriting.constants import name_nodes
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.sensitivity import quantized_groups, sensitivities, size
from compress.quantization.static import quantize_static_int8
from compress.quantization.switches import int8_branches
from compress.recipe import Recipe
from compress.recipe.parse import load_recipe
from compress.runtime.onnxruntime import Session
from compress.stats import paired_drop

RESULTS = Path(__file__).parent / "results" / "mixed_precision.json"
RUNS = Path("runs/distillation")
CONFIG = QuantizeConfig(per_channel=False)
KINDS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True)
class Case:
    """A model, and how much of its quality it may lose.

    Attributes:
        recipe: name of the recipe whose training makes it.
        max_drop: in the metric's unit.
        hard: where a channel is made large, see `_harden`.
        rows: samples of the validation split that an evaluation takes.
    """

    recipe: str
    max_drop: float
    hard: tuple[int, ...]
    rows: int = 500


CASES = {
    "ResNet-20, three hard pairs": Case("cnn", 0.005, (1, 4, 7)),
    "GPT, one hard normalization": Case("gpt", 0.01, (2,), 64),
    "Transformer, one hard normalization": Case("transformer", 0.004, (1,)),
}


class Trial:
    """One model with everything that the ways to choose share."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.folder, self.max_drop = folder, case.max_drop
        recipe = load_recipe(Path(f"recipes/{case.recipe}.yaml"))
        self.task, self.source = load_task(recipe.task), folder / "source.onnx"
        simplify(_trained(recipe, RUNS / case.recipe), self.source)
        model = onnx.load(self.source)
        name_nodes(model)
        for place in case.hard:
            _harden(model, place)
        onnx.save(model, self.source)
        # Products of two activations have no weights to gain from.
        computing = {node.name for node in model.graph.node if node.op_type in KINDS}
        self._always = computing - layers(model).keys()
        self.samples, validation = TaskJudge(self.task).calibration(64, 0), self.task.validation
        self._ranges = collect(self.source, self.samples).ranges("minmax")
        self._split = validation.subset(torch.arange(min(case.rows, len(validation))))
        self._drops = dict[frozenset[str], float]()
        self._reference = self._scores(self.source)
        self.few, self.int8 = self.samples[:1], folder / "int8.onnx"
        self.make(frozenset(), self.int8)
        self.groups = quantized_groups(self.source, self.int8, layers(model))

    def make(self, keep: frozenset[str], path: Path) -> None:
        kept = (*keep, *self._always)
        quantize_static_int8(self.source, path, self._ranges, CONFIG, kept, KINDS)

    def evaluate(self, path: Path) -> float:
        """Quality lost on the validation split."""
        metric = self.task.metric
        return paired_drop(self._reference, self._scores(path), metric.higher_is_better)[0]

    def _scores(self, path: Path) -> np.ndarray:
        outputs = run_onnx(Session(path, threads=2), self._split)
        return self.task.metric.score(outputs, self._split.targets.numpy())

    def drop(self, keep: Sequence[str]) -> float:
        """Of the model that leaves these layers in fp32; each is made once."""
        kept, path = frozenset(keep), self.folder / "tried.onnx"
        if kept not in self._drops:
            self.make(kept, path)
            self._drops[kept] = self.evaluate(path)
        return self._drops[kept]

    def needed(self, order: Sequence[str]) -> tuple[int, float]:
        """How many layers have to stay in fp32 in that order, one more each time; and the drop."""
        for count in range(len(order)):
            drop = self.drop(order[:count])
            if drop <= self.max_drop:
                return count, drop
        return len(order), 0.0


def _trained(recipe: Recipe, folder: Path) -> Path:
    """The recipe's trained model, made where it is not there yet."""
    place = next(at for at, stage in enumerate(recipe.stages, 1) if stage.name == "train")
    if not (folder / f"{place}-train" / "card.json").exists():
        make_teacher(recipe, "train", folder)
    return load_artifact(folder / f"{place}-train").onnx


def _harden(model: ModelProto, place: int, factor: float = 300.0) -> None:
    """Make a channel so much larger, and what reads it the less sensitive to it, in place.

    The channel is the first that a convolution gives through a Relu to another, or that a
    normalization gives to products; so the model computes the same, and one scale has to serve
    what is large and what is small.

    Args:
        place: which of these in the graph's order.
    """
    edit = Edit(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [hard for node in model.graph.node if (hard := _channel(edit, node))]
    made, readers = found[place]
    for name in made.input[1:]:
        _scale(tensors[name], (0,), factor)
    for reader in readers:
        column = (slice(None), 0) if reader.op_type == "Conv" else (0,)
        _scale(tensors[reader.input[1]], column, 1 / factor)


def _channel(edit: Edit, node: NodeProto) -> tuple[NodeProto, list[NodeProto]] | None:
    """A node that makes channels and all that read them, where both are of the kinds above."""
    if node.op_type == "LayerNormalization":
        readers, kind = edit.users(node.output[0]), "MatMul"
    elif node.op_type == "Conv" and (relu := edit.only_user(node.output[0])) is not None:
        readers, kind = edit.users(relu.output[0]) if relu.op_type == "Relu" else [], "Conv"
    else:
        return None
    fits = readers and all(
        reader.op_type == kind and edit.weight(reader.input[1]) is not None for reader in readers
    )
    return (node, readers) if fits else None


def _scale(tensor: TensorProto, index: tuple[Any, ...], factor: float) -> None:
    values = numpy_helper.to_array(tensor).copy()
    values[index] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def main() -> None:
    """Run all cases, or those named; print and store what came out."""
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            row = _row(Trial(CASES[name], Path(folder)))
        print(name, json.dumps(row, indent=1), flush=True)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(stored | {name: row}, indent=1) + "\n")


def _row(trial: Trial) -> dict[str, Any]:
    start = time.perf_counter()
    found = mixed_precision(
        *(trial.source, trial.make, trial.evaluate, trial.groups, trial.few),
        *(trial.max_drop, trial.folder),
    )
    seconds = time.perf_counter() - start
    return {
        "layers": len(trial.groups),
        "max_drop": trial.max_drop,
        "int8": {"drop": found.evaluations[0].drop, "evaluations": 1},
        "mixed": {
            "fp32": len(found.fp32),
            "drop": found.drop,
            "evaluations": len(found.evaluations),
            "seconds": round(seconds, 1),
        },
        "one a layer": _one_a_layer(trial),
        "orders": _orders(trial),
    }


def _one_a_layer(trial: Trial) -> dict[str, Any]:
    """Each layer evaluated alone, then left in fp32 one after the other."""
    start, names = time.perf_counter(), list(trial.groups)
    alone = {name: trial.drop([other for other in names if other != name]) for name in names}
    count, drop = trial.needed(sorted(names, key=lambda name: -alone[name]))
    return {
        "fp32": count,
        "drop": drop,
        "evaluations": len(names) + 1 + count,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _orders(trial: Trial) -> dict[str, Any]:
    """What each order takes, how many layers stay in fp32 by it, and its rank correlation."""
    found = dict[str, tuple[dict[str, float], float]]()
    for name, figures in _FIGURES.items():
        start = time.perf_counter()
        found[name] = figures(trial), time.perf_counter() - start
    first = found["switches"][0]
    rows = {}
    for name, (values, seconds) in found.items():
        count, _ = trial.needed(sorted(values, key=lambda layer: -values[layer]))
        ranks = spearmanr([first[layer] for layer in first], [values[layer] for layer in first])
        correlation = round(float(ranks.statistic), 3)
        rows[name] = {"fp32": count, "seconds": round(seconds, 1), "correlation": correlation}
    return rows


def _by_switches(trial: Trial, *, scores: bool = False) -> dict[str, float]:
    given = (trial.source, trial.make, trial.groups, trial.few, trial.folder)
    found = sensitivities(*given, scores=scores)
    return {entry.name: size(entry) for entry in found}


def _by_files(trial: Trial) -> dict[str, float]:
    with mock.patch.object(sensitivity, "with_switches", return_value=None):
        return _by_switches(trial)


def _by_own_output(trial: Trial) -> dict[str, float]:
    """Relative error of each layer's own output where its input is that of the fp32 model."""
    model, quantized, path = *map(onnx.load, (trial.source, trial.int8)), trial.folder / "own.onnx"
    branches = int8_branches(model, quantized, trial.groups, "int8_")
    assert branches is not None
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name in branches:
            nodes += _error_nodes(model, node.output[0], branches[node.name])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.extend(o for o in quantized.opset_import if o.domain)
    onnx.save(model, path)
    place = len(Session(trial.source).outputs)
    found = [Session(path).every_output(batch)[place:] for batch in trial.few]
    sums = np.array(found, float).sum(axis=0)
    return dict(zip(branches, np.sqrt(sums[::2] / sums[1::2]).tolist(), strict=True))


def _error_nodes(model: ModelProto, output: str, branch: GraphProto) -> Iterator[NodeProto]:
    """The int8 branch, and the sums of squares of its error and of what it should give."""
    model.graph.initializer.extend(branch.initializer)
    yield from branch.node
    result = branch.output[0].name
    yield helper.make_node("Sub", [output, result], [f"{result}_off"])
    for name, value in ((f"{result}_error", f"{result}_off"), (f"{result}_power", output)):
        yield helper.make_node("ReduceSumSquare", [value], [name], keepdims=0)
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))


_FIGURES: dict[str, Callable[[Trial], dict[str, float]]] = {
    "switches": _by_switches,
    "switches, KL": lambda trial: _by_switches(trial, scores=True),
    "files": _by_files,
    "own output": _by_own_output,
}


if __name__ == "__main__":
    main()
