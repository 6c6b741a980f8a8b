"""What torch's two exporters leave in pieces, at all opsets, is one operator again."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from sketch import kinds
from torch import nn

from compress.quantization.rewriting.simplify import simplify
from compress.runtime.onnxruntime import Session


class Bend(nn.Module):
    """A product, bent; twice as wide as its input."""

    def __init__(self, bend):
        super().__init__()
        self.linear, self.bend = nn.Linear(8, 16), bend

    def forward(self, x):
        return self.bend(self.linear(x)) + 1


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 8))

    def forward(self, tokens):
        return torch.relu(F.one_hot(tokens, 11).float() @ self.table)


class Compared(OneHot):
    def forward(self, tokens):
        vectors = (tokens.unsqueeze(-1) == torch.arange(11)).float()
        return torch.relu(vectors @ self.table)


class Norm(nn.Module):
    """LayerNormalization written down by hand, as many models do."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.randn(16)) for _ in range(2))

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias


class Upsample(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(
            nn.ConvTranspose2d(3, 4, 2, 2, bias=False),
            nn.BatchNorm2d(4),
            nn.Hardswish(),
            nn.Conv2d(4, 4, 3, groups=2),
            nn.BatchNorm2d(4),
        )

    def forward(self, x):
        return self.parts(x)


def randomised(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def export(model, inputs, path, opset, *, dynamo):
    settings = (
        {"dynamic_shapes": ({0: "batch"},), "dynamo": True, "verbose": False}
        if dynamo
        else {"dynamic_axes": {"x": {0: "batch"}}, "dynamo": False}
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter is deprecated, and still in use
        torch.onnx.export(
            randomised(model),
            (inputs,),
            str(path),
            input_names=["x"],
            opset_version=opset,
            **settings,
        )


FLOATS, TOKENS, IMAGES = (
    torch.randn(2, 5, 8),
    torch.tensor([[0, 10], [3, 4]]),
    torch.randn(2, 3, 6, 6),
)
CASES = {
    "gelu": (lambda: Bend(nn.GELU()), FLOATS, {"Gelu": 1}),
    "gelu by tanh": (lambda: Bend(nn.GELU("tanh")), FLOATS, {"Gelu": 1}),
    "layer norm": (lambda: Bend(nn.LayerNorm(16)), FLOATS, {"LayerNormalization": 1}),
    "layer norm by hand": (lambda: Bend(Norm()), FLOATS, {"LayerNormalization": 1}),
    "layer norm of two axes": (
        lambda: Bend(nn.LayerNorm((5, 16))),
        FLOATS,
        {"LayerNormalization": 1},
    ),
    "layer norm without weights": (
        lambda: Bend(nn.LayerNorm(16, elementwise_affine=False)),
        FLOATS,
        {"LayerNormalization": 1},
    ),
    "hard swish": (lambda: Bend(nn.Hardswish()), FLOATS, {"HardSwish": 1}),
    "hard sigmoid": (lambda: Bend(nn.Hardsigmoid()), FLOATS, {"HardSigmoid": 1}),
    "hard swish by hand": (
        lambda: Bend(lambda x: x * F.relu6(x + 3) / 6),
        FLOATS,
        {"HardSwish": 1},
    ),
    "one-hot": (OneHot, TOKENS, {"Gather": 1}),
    "one-hot by comparison": (Compared, TOKENS, {"Gather": 1}),
    "batch norms": (Upsample, IMAGES, {"ConvTranspose": 1, "HardSwish": 1, "Conv": 1}),
}
PIECES = {"Erf", "Tanh", "Pow", "Sqrt", "ReduceMean", "Clip", "BatchNormalization", "OneHot"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opset", [11, 14, 17])
def test_older_exporter(case, opset, tmp_path):
    make, inputs, expected = CASES[case]
    check(make(), inputs, expected, opset, tmp_path, dynamo=False)


class Several(nn.Module):
    """What the newer exporter leaves in pieces, one after the other."""

    def __init__(self):
        super().__init__()
        bends = [nn.GELU(), Norm(), lambda x: x * F.relu6(x + 3) / 6]
        self.parts = nn.ModuleList(Bend(bend) for bend in bends)
        self.one_hot = OneHot()

    def forward(self, tokens):
        x = self.one_hot(tokens)
        for part in self.parts:
            x = part(x)[..., ::2]
        return x


def test_newer_exporter(tmp_path):
    """The opset is 18; at 20 only GELU is not in pieces."""
    expected = {"Gelu": 1, "LayerNormalization": 1, "HardSwish": 1, "Gather": 1}
    check(Several(), TOKENS, expected, 18, tmp_path, dynamo=True)


def check(model, inputs, expected, opset, folder, *, dynamo):
    source, target = folder / "m.onnx", folder / "out.onnx"
    export(model, inputs, source, opset, dynamo=dynamo)
    assert not [r for r in simplify(source, target, (inputs.numpy(),)) if r.undone]
    found = kinds(onnx.load(target))
    assert expected.items() <= found.items()
    assert not (PIECES - ({"Clip"} if "Gather" in expected else set())) & found.keys()
    more = np.concatenate([inputs.numpy()] * 3)
    want, got = (Session(path).run(more) for path in (source, target))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
