"""Recurrent layers become single ONNX nodes that compute what torch does at every length."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import GraphProto
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from compress.errors import InputError
from compress.export.config import ExportConfig
from compress.export.torch_to_onnx import export
from compress.models.rnn import Recurrent
from compress.models.sequence_configs import RecurrentConfig

STACKS = list(itertools.product(["rnn", "lstm", "gru"], [(6,), (6, 5)], [False, True]))
STACK_NAMES = [f"{cell}-{len(widths)}-{'bi' if both else 'uni'}" for cell, widths, both in STACKS]
LENGTHS = torch.tensor([9, 1, 4])


def samples(model: nn.Module, batch: int, time: int) -> Tensor:
    vocabulary = getattr(getattr(model, "config", None), "vocabulary", 0)
    generator = torch.Generator().manual_seed(batch * time)
    if vocabulary:
        return torch.randint(0, vocabulary, (batch, time), generator=generator)
    return torch.randn(batch, time, 4, generator=generator)


def exported(
    model: nn.Module, path: Path, *, lengths: bool, config: ExportConfig | None = None
) -> GraphProto:
    """The graph of an export that was checked at several lengths, here, too, and by `export`."""
    inputs = (samples(model, 3, 9), LENGTHS) if lengths else (samples(model, 3, 9),)
    evidence = export(model, inputs, path, config, sequences=True)
    assert evidence["lengths"] == [1, 2, 5, 9]
    session = onnxruntime.InferenceSession(path)
    for batch, time in ((1, 1), (1, 13), (4, 2), (5, 20)):
        x = samples(model, batch, time)
        given = (x, torch.randint(1, time + 1, (batch,)))[: 1 + lengths]
        names = ("input", "lengths")[: 1 + lengths]
        feeds = {name: values.numpy() for name, values in zip(names, given, strict=True)}
        with torch.inference_mode():
            expected = model(*given).numpy()
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5, rtol=0)
    return onnx.load(path).graph


def kinds(graph: GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


@pytest.mark.parametrize(("cell", "widths", "both"), STACKS, ids=STACK_NAMES)
def test_a_layer_is_one_node_and_weights_are_constants(cell, widths, both, tmp_path):
    torch.manual_seed(0)
    config = RecurrentConfig(cell=cell, widths=widths, bidirectional=both, in_features=4)
    graph = exported(Recurrent(config), tmp_path / "m.onnx", lengths=True)
    beside = ["Transpose", "Reshape"] if both else ["Squeeze"]
    layer = [cell.upper(), *beside]
    assert kinds(graph) == ["Transpose", "Cast", *(layer * len(widths)), "Gemm"]
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    gates, features = {"rnn": 1, "lstm": 4, "gru": 3}[cell], 4
    nodes = [node for node in graph.node if node.op_type == cell.upper()]
    for node, width in zip(nodes, widths, strict=True):
        assert constants[node.input[1]] == [1 + both, gates * width, features]
        assert constants[node.input[2]] == [1 + both, gates * width, width]
        assert constants[node.input[3]] == [1 + both, 2 * gates * width]
        features = (1 + both) * width
    assert nodes[-1].output[0] == ""  # nothing but the last state is used
    stored = sum(np.prod(dims) for dims in constants.values() if len(dims) == 3)
    assert stored == sum(
        p.numel() for n, p in Recurrent(config).named_parameters() if "weight_" in n
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"vocabulary": 30, "ngrams": {2: 7}, "pooling": "mean", "cell": "gru"},
        {"in_features": 4, "front_width": 5, "pooling": "max", "bidirectional": True},
        {"vocabulary": 30, "per_step": True, "outputs": 30, "widths": (6, 6)},
        {"vocabulary": 30, "front_width": 5, "cell": "rnn"},
    ],
    ids=["pairs, mean", "convolution, max", "per step", "tokens, convolution"],
)
def test_every_front_and_pooling(settings, tmp_path):
    torch.manual_seed(0)
    settings = {"widths": (6,), "embedding": 5 if "vocabulary" in settings else 0} | settings
    model = Recurrent(RecurrentConfig(**settings))
    graph = exported(model, tmp_path / "m.onnx", lengths=True)
    assert kinds(graph).count(settings.get("cell", "lstm").upper()) == len(settings["widths"])


def test_without_lengths_there_is_no_input_for_them(tmp_path):
    graph = exported(Recurrent(RecurrentConfig(in_features=4)), tmp_path / "m.onnx", lengths=False)
    assert [value.name for value in graph.input] == ["input"]
    assert kinds(graph) == ["Transpose", "LSTM", "Squeeze", "Gemm"]


@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets(opset, tmp_path):
    model, config = Recurrent(RecurrentConfig(in_features=4, cell="gru")), ExportConfig(opset=opset)
    graph = exported(model, tmp_path / "m.onnx", lengths=True, config=config)
    assert kinds(graph) == ["Transpose", "Cast", "GRU", "Squeeze", "Gemm"]


class Own(nn.Module):
    """A user's model around one of torch's own layers."""

    def __init__(self, layer: nn.RNNBase, *, steps: bool = False, given: bool = False) -> None:
        super().__init__()
        self.layer, self.steps, self.given = layer, steps, given
        self.start = nn.Parameter(torch.randn(layer.num_layers * (1 + layer.bidirectional), 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.layer.batch_first else x.transpose(0, 1)
        states = None
        if self.given:
            start = self.start.expand(-1, x.shape[0 if self.layer.batch_first else 1], -1)
            states = (start, start.tanh()) if isinstance(self.layer, nn.LSTM) else start
            states = tuple(s.contiguous() for s in states) if isinstance(states, tuple) else states
        steps, last = self.layer(x, states)
        if self.steps:
            return steps if self.layer.batch_first else steps.transpose(0, 1)
        if isinstance(last, tuple):
            return torch.cat([*last[0], *last[1]], dim=1)
        return torch.cat([*last], dim=1)


STACKED = {"batch_first": True, "num_layers": 2, "bidirectional": True}
TIME_FIRST = {"batch_first": False, "num_layers": 2, "dropout": 0.5}


@pytest.mark.parametrize(
    ("kind", "settings", "steps", "given"),
    [
        (nn.LSTM, STACKED, True, False),
        (nn.LSTM, TIME_FIRST, False, True),
        (nn.LSTM, {"batch_first": True, "bias": False}, False, False),
        (nn.GRU, STACKED, True, False),
        (nn.GRU, TIME_FIRST, False, True),
        (nn.RNN, STACKED, True, False),
        (nn.RNN, TIME_FIRST | {"nonlinearity": "relu"}, False, True),
    ],
)
def test_a_users_own_layer(kind, settings, steps, given, tmp_path):
    torch.manual_seed(0)
    model = Own(kind(4, 6, **settings), steps=steps, given=given)
    graph = exported(model, tmp_path / "m.onnx", lengths=False)
    nodes = [node for node in graph.node if node.op_type == kind.__name__]
    assert len(nodes) == settings.get("num_layers", 1)
    assert all(bool([name for name in node.input[5:] if name]) == given for node in nodes)
    constants = {tensor.name for tensor in graph.initializer}
    assert all(set(filter(None, node.input[1:4])) <= constants for node in nodes)


def test_packed_sequences_are_refused_in_one_line(tmp_path):
    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 6, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.layer(packed)[1][0]

    inputs = (torch.randn(3, 9, 4), LENGTHS)
    with pytest.raises(InputError) as caught:
        export(Packing(), inputs, tmp_path / "m.onnx", sequences=True)
    assert str(caught.value) == (
        "torch cannot export Packing: packed sequences cannot be exported; "
        "give the layer the padded batch, and take what belongs to each length from its output"
    )


class First(nn.Module):
    def forward(self, outputs: tuple[Tensor, ...]) -> Tensor:
        return outputs[0]


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's, of a slow kernel
def test_projections_are_refused_in_one_line(tmp_path):
    model = nn.Sequential(nn.LSTM(4, 6, proj_size=3, batch_first=True), First())
    with pytest.raises(InputError) as caught:
        export(model, torch.randn(3, 9, 4), tmp_path / "m.onnx", sequences=True)
    assert str(caught.value) == (
        "torch cannot export Sequential: ONNX has no LSTM with projections (proj_size)"
    )


def test_large_constants_that_are_no_weights_of_a_layer_stay_as_they_are(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(400, 32), nn.GRU(32, 32, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            steps, _ = self.layer(self.table(tokens))
            return steps @ self.table.weight.T

    path = tmp_path / "m.onnx"
    export(Tied(), torch.randint(0, 400, (3, 9)), path, sequences=True)
    shapes = [list(tensor.dims) for tensor in onnx.load(path).graph.initializer]
    assert [400, 32] in shapes
    assert [32, 400] not in shapes
