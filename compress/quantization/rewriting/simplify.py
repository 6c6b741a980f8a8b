"""Any ONNX file as one that computes the same with fewer, larger nodes; to be quantized next.

Each step is taken, its file run on the samples, and undone where it does not load or any output
differs: a step that fails costs nothing but itself.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnx import ModelProto

from compress.errors import first_line
from compress.export.bodies import graphs, has_bodies
from compress.quantization.rewriting import activations, constants, loops
from compress.quantization.rewriting.affine import merge_affine
from compress.quantization.rewriting.agreement import TOLERANCE, Disagreement, Reference, reference
from compress.quantization.rewriting.branches import inline_known_branches
from compress.quantization.rewriting.einsums import multiply_einsums
from compress.quantization.rewriting.embeddings import compute_on_tables
from compress.quantization.rewriting.files import load, save
from compress.quantization.rewriting.folding import DOUBTFUL, fold, infer_shapes
from compress.quantization.rewriting.gemms import plain_gemms
from compress.quantization.rewriting.impossible_branches import inline_only_branches
from compress.quantization.rewriting.in_bodies import Change, in_bodies
from compress.quantization.rewriting.normalizations import fuse_layer_normalization
from compress.quantization.rewriting.one_hot import fuse_one_hot
from compress.quantization.rewriting.opset import OPSETS, raise_opset
from compress.quantization.rewriting.restoring import restore_weights
from compress.quantization.rewriting.rows import gather_rows
from compress.quantization.rewriting.tidy import tidy
from compress.quantization.rewriting.vocabularies import fold_vocabularies
from compress.quantization.rewriting.widening import widen
from compress.quantization.scopes import unique_names
from compress.runtime.isolated import Call, calls
from compress.runtime.onnxruntime import Feeds

__all__ = ["TOLERANCE", "Rewrite", "simplify"]

#: The step after which numbers are those of fp32, and are compared with what it gave.
_WIDENED = "half precision to fp32"
_INFERRING: tuple[Change, ...] = (infer_shapes, partial(infer_shapes, symbolic=False))


def _steps(call: Call) -> dict[str, tuple[Change, ...]]:
    """What is done, in this order; of several ways the first that works."""
    folding = [partial(fold, without=names, call=call) for names in ((), *DOUBTFUL)]
    return {
        "functions inlined": (constants.inline_functions,),
        "weights no longer inputs": (constants.take_weights_off_inputs,),
        "If on a known condition": (inline_known_branches,),
        "If with one branch that fits": (inline_only_branches,),
        "Constant nodes to initializers": (constants.lift_constants,),
        _WIDENED: (widen,),
        "opset raised": tuple(partial(raise_opset, version) for version in OPSETS),
        "nodes that pass values on": (in_bodies(constants.drop_passing),),
        "states that no step of a Loop changes": (loops.free_states,),
        "products in front of their Loop": (loops.multiply_at_once,),
        "stored integers restored": (restore_weights,),
        "constant parts folded": tuple(folding),
        "tiny weights to zero": (constants.flush_tiny_weights,),
        "nodes named": (constants.name_nodes,),
        "values in bodies named": (unique_names,),
        "shapes inferred": _INFERRING,
        "casts to what a value is": (in_bodies(constants.drop_passing),),
        "Einsum to products": (in_bodies(multiply_einsums),),
        "scales and shifts merged into weights": (in_bodies(merge_affine),),
        "plain Gemm": (in_bodies(plain_gemms),),
        "one-hot products to Gather": (in_bodies(fuse_one_hot),),
        "GatherND of rows to Gather": (in_bodies(gather_rows),),
        "LayerNormalization": (in_bodies(fuse_layer_normalization),),
        "GELU": (in_bodies(activations.fuse_gelu),),
        "HardSwish": (in_bodies(activations.fuse_hard_swish),),
        "HardSigmoid": (in_bodies(activations.fuse_hard_sigmoid),),
        "computed on tables of embeddings": (compute_on_tables,),
        "small vocabularies into recurrent weights": (in_bodies(fold_vocabularies),),
        "shapes of new values inferred": _INFERRING,
    }


@dataclass(frozen=True)
class Rewrite:
    """One step that changed something, or was to.

    Attributes:
        places: how often it was applied: nodes, weights, values, or versions of the opset.
        difference: of all outputs, the largest after this step, relative to the largest number
            of that output of the source, or of the same in fp32 for what comes behind "half
            precision to fp32"; None where the step was undone.
        undone: why, empty where it stands.
    """

    name: str
    places: int
    difference: float | None
    undone: str = ""


def simplify(source: Path, target: Path, samples: Feeds | None = None) -> list[Rewrite]:
    """Write a copy that computes the same with fewer, larger nodes.

    Inputs and outputs keep their names, order, types and declared shapes; nodes of domains other
    than ONNX's own stay as they are. Weights of 2 GB or more are written beside the target.

    Args:
        samples: one array for each of the model's inputs, on which all outputs have to agree
            within `TOLERANCE` of the largest number of each; made up where None. What computes in
            fp16 may first move by roundings of that.

    Raises:
        ModelFileError: the file is damaged, onnxruntime cannot load it or cannot run the samples.
        ShapeMismatch: the samples are not what the model takes.
    """
    model = load(source)
    rewrites = list[Rewrite]()
    # Some graphs with bodies make onnxruntime crash.
    with tempfile.TemporaryDirectory() as folder, calls(isolated=has_bodies(model)) as call:
        expected = reference(source, samples, call)
        _forget_shapes(model)
        for name, ways in _steps(call).items():
            model, found = _taken(model, name, ways, expected, Path(folder) / "step.onnx")
            rewrites += found
            if name == _WIDENED and found and not found[0].undone:
                widened = Path(folder) / "widened.onnx"
                save(model, widened)
                expected = reference(widened, expected.feeds, call)
    save(model, target)
    return rewrites


def _forget_shapes(model: ModelProto) -> None:
    """Drop what the file says of inner values: a hint, which may be wrong, and is inferred anew."""
    for graph in graphs(model.graph):  # a name for one elsewhere would keep the model in memory
        graph.ClearField("value_info")


def _taken(
    model: ModelProto, name: str, ways: tuple[Change, ...], expected: Reference, scratch: Path
) -> tuple[ModelProto, list[Rewrite]]:
    """The model after a step, or as it was, and what there is to say about it."""
    reason, places = "", 0
    for change in ways:
        changed = ModelProto()
        changed.CopyFrom(model)
        try:
            count = change(changed)
            if not count:  # the other ways do less
                break
            places = count
            tidy(changed, model)
            save(changed, scratch)
            difference = expected.difference(scratch)
        except Disagreement as disagreement:
            reason = str(disagreement)
        except Exception as error:  # a converter's, protobuf's, onnxruntime's: what it cannot do
            reason = first_line(error)
        else:
            return changed, [Rewrite(name, places, difference)]
    return model, [Rewrite(name, places, None, reason)] if reason else []
