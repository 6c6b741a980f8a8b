"""Recurrent nodes behind an embedding with a small vocabulary, written with `Sketch`."""

from __future__ import annotations

import numpy as np
import onnx
from sketch import numbers

from compress.quantization.rewriting.folding import infer_shapes

SIZE, WIDTH, HIDDEN = 5, 12, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: (time, batch), some from the end.
TOKENS = np.array([[0, 3, 4], [4, 1, -1], [-5, 2, 2], [1, -2, 0]])
LENGTHS = np.array([4, 1, 3], np.int32)


def layer(g, kind, x, *, weight=None, lengths=False, state=False, outputs=1, **attributes):
    """A recurrent node with biases, from (time, batch, features)."""
    directions = 1 + (attributes.get("direction") == "bidirectional")
    gates = GATES[kind] * HIDDEN
    weight = g.constant(numbers(directions, gates, WIDTH)) if weight is None else weight
    inputs = [
        weight,
        g.constant(numbers(directions, gates, HIDDEN)),
        g.constant(numbers(directions, 2 * gates)),
        g.constant(LENGTHS, np.int32) if lengths else "",
        *([g.constant(numbers(directions, 3, HIDDEN))] * (1 + (kind == "LSTM")) if state else []),
    ]
    node = getattr(g, kind)
    return node(x, *inputs, hidden_size=HIDDEN, outputs=outputs, **attributes)


def embedded(g, shape=("time", "batch"), size=SIZE):
    return g.Gather(g.constant(numbers(size, WIDTH)), g.input("tokens", shape, np.int64))


def finished(g, *outputs):
    """With the shapes of all values noted, which are wrong of some when they are changed."""
    for name in outputs:
        g.output(name)
    model = g.model()
    infer_shapes(model, symbolic=False)
    return model


def copied(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


def axes(g, *places):
    return g.constant(places, np.int64)
