"""Fused graphs against the ones that they came from, on onnxruntime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.errors import ModelFileError
from compress.export.torch_to_onnx import export
from compress.models.sequence_configs import TransformerConfig
from compress.models.transformer import Transformer
from compress.quantization import fusion
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.fusion import fuse
from compress.quantization.rewriting import agreement
from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session

SMALL = {
    "vocabulary": 50,
    "width": 32,
    "heads": (2, 3),
    "head_width": 16,
    "feed_forward": (64, 64),
    "max_length": 20,
}


class TorchAttention(nn.Module):
    """Attention as torch exports its own function: keys turned by a detour, guards against NaN."""

    def __init__(self, mask):
        super().__init__()
        self.norm, self.mask = nn.LayerNorm(32), mask
        self.parts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, x, lengths):
        batch, time, _ = x.shape
        split = [part(x).view(batch, time, 4, 8).transpose(1, 2) for part in self.parts[:3]]
        seen = (torch.arange(time) < lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(1)
        mask = seen if self.mask == "bool" else None
        mixed = F.scaled_dot_product_attention(*split, mask, is_causal=self.mask == "causal")
        kept = lengths.view(-1, 1, 1) * 0  # used in every case
        return self.norm(x + self.parts[3](mixed.transpose(1, 2).reshape(batch, time, 32))) + kept


def randomised(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def prepared(model, inputs, folder):
    export(model, inputs, folder / "model.onnx", sequences=True)
    simplify(folder / "model.onnx", folder / "prepared.onnx")
    return folder / "prepared.onnx"


def tokens(lengths, seed=0):
    torch.manual_seed(seed)
    return torch.randint(3, 50, (len(lengths), max(lengths))), torch.tensor(lengths)


def arrays(inputs):
    return tuple(part.numpy() for part in inputs)


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def optimized(path, folder):
    """The operators that onnxruntime really runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(path, options)
    return operators(folder / "optimized.onnx")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    model = randomised(Transformer(TransformerConfig(**SMALL)))
    return prepared(model, tokens([12, 12, 5]), tmp_path_factory.mktemp("encoder"))


def test_an_encoder_keeps_its_results(encoder, tmp_path):
    target = tmp_path / "fused.onnx"
    assert fuse(encoder, target, arrays(tokens([9, 4, 9])))
    assert operators(target)["Attention"] == 2
    assert not {"Softmax", "Transpose", "Not"} & operators(target).keys()
    assert operators(target)["MatMul"] == operators(encoder)["MatMul"] - 4
    assert operators(target)["Expand"] == 1
    for lengths in ([1], [20, 3], [7, 7, 2, 7]):
        inputs = arrays(tokens(lengths))
        expected, found = Session(encoder).run(inputs), Session(target).run(inputs)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_onnxruntime_no_longer_merges_sums_with_normalizations(encoder, tmp_path):
    target = tmp_path / "fused.onnx"
    fuse(encoder, target, arrays(tokens([9, 4])))
    assert optimized(encoder, tmp_path)["SkipLayerNormalization"] == 1
    assert optimized(target, tmp_path)["SkipLayerNormalization"] == 0


def test_a_fused_graph_can_be_quantized(encoder, tmp_path):
    fuse(encoder, tmp_path / "fused.onnx", arrays(tokens([9, 4])))
    quantize_dynamic_int8(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    inputs = arrays(tokens([20, 3, 11]))
    expected, found = Session(encoder).run(inputs), Session(tmp_path / "int8.onnx").run(inputs)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_decoder_keeps_its_results(tmp_path):
    torch.manual_seed(0)
    config = TransformerConfig(**SMALL, causal=True, per_step=True, outputs=50)
    source = prepared(randomised(Transformer(config)), tokens([12, 12, 12])[:1], tmp_path)
    target = tmp_path / "fused.onnx"
    assert fuse(source, target, arrays(tokens([9, 9])[:1]))
    assert operators(target)["Attention"] == 2
    for lengths in ([1], [20, 20], [7, 7, 7]):
        inputs = arrays(tokens(lengths)[:1])
        expected, found = Session(source).run(inputs), Session(target).run(inputs)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask", ["bool", "none", "causal"])
def test_attention_as_torch_exports_its_own(mask, tmp_path):
    torch.manual_seed(0)
    model, lengths = randomised(TorchAttention(mask)), torch.tensor([7, 3, 5])
    source = prepared(model, (torch.randn(3, 7, 32), lengths), tmp_path)
    target = tmp_path / "fused.onnx"
    assert fuse(source, target, arrays((torch.randn(3, 7, 32), lengths)))
    assert operators(target)["Attention"] == 1
    assert operators(target).total() < operators(source).total() - 10
    inputs = arrays((torch.randn(2, 11, 32), torch.tensor([11, 2])))
    expected, found = Session(source).run(inputs), Session(target).run(inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_what_has_no_attention_stays(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    assert not fuse(tmp_path / "m.onnx", tmp_path / "fused.onnx", (np.ones((2, 4), np.float32),))
    assert not (tmp_path / "fused.onnx").exists()


def test_a_graph_that_differs_is_not_left_behind(encoder, tmp_path, monkeypatch):
    original = fusion._Pieces.unscaled
    monkeypatch.setattr(fusion._Pieces, "unscaled", lambda *args: (original(*args)[0], 1.0))
    assert not fuse(encoder, tmp_path / "fused.onnx", arrays(tokens([9, 4])))
    assert not (tmp_path / "fused.onnx").exists()


def test_an_onnxruntime_without_the_kernel(encoder, tmp_path, monkeypatch):
    def session(path, **settings):
        if path.name == "fused.onnx":
            raise ModelFileError(f"{path}: no kernel")
        return Session(path, **settings)

    monkeypatch.setattr(agreement, "Session", session)
    assert not fuse(encoder, tmp_path / "fused.onnx", arrays(tokens([9, 4])))


def test_an_old_opset_is_not_raised(encoder, tmp_path):
    model = onnx.load(encoder)
    model.opset_import[0].version = 17
    assert fusion._fuse_attention(model) == 0
    assert model.opset_import[0].version == 17
