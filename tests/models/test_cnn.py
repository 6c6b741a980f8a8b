"""Shapes, sizes and costs of the convolutional models against numbers worked out by hand."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.models.build import build, count_macs, count_parameters
from compress.models.cnn import BasicBlock
from compress.models.configs import LeNetConfig, ResNetConfig, StridedConfig
from compress.models.references import REFERENCES, resolve

DIGITS = {"classes": 10, "in_channels": 1, "image_size": 28}
COLOURS = {"classes": 7, "in_channels": 3, "image_size": 32}

# ResNet-20 on 28 x 28: kernel elements x positions, stage by stage.
RESNET_STAGES = (
    28 * 28 * (9 * 16 + 6 * 9 * 16 * 16),
    14 * 14 * (9 * 16 * 32 + 16 * 32 + 5 * 9 * 32 * 32),
    7 * 7 * (9 * 32 * 64 + 32 * 64 + 5 * 9 * 64 * 64),
    64 * 10,
)
# name: parameters, multiply-accumulates.
KNOWN = {
    "cnn": (272_186, sum(RESNET_STAGES)),
    "cnn-tiny": (
        400 + 4_608 + 2 * 9_216 + 2 * (16 + 3 * 32) + 2_890,
        8 * 8 * 400 + 6 * 6 * 4_608 + 3 * 3 * 2 * 9_216 + 2_880,
    ),
    "cnn-small": (
        176 + 4 * (2_304 + 32) + 4_608 + 3 * 9_216 + 512 + 5 * 64 + 330,
        28 * 28 * (144 + 4 * 2_304) + 14 * 14 * (4_608 + 512 + 3 * 9_216) + 320,
    ),
    "lenet": (
        156 + 2_416 + 48_120 + 10_164 + 850,
        28 * 28 * 150 + 10 * 10 * 2_400 + 48_000 + 10_080 + 840,
    ),
}

IMAGES = [name for name in REFERENCES if name.startswith("cnn") or name == "lenet"]


@pytest.mark.parametrize("facts", [DIGITS, COLOURS], ids=["digits", "colours"])
@pytest.mark.parametrize("name", IMAGES)
def test_outputs_have_one_logit_a_class(name, facts):
    model = build(resolve(name, {}, facts)).eval()
    side = facts["image_size"]
    logits = model(torch.randn(3, facts["in_channels"], side, side))
    assert logits.shape == (3, facts["classes"])
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_and_macs(name):
    model = build(resolve(name, {}, DIGITS))
    found = (count_parameters(model), count_macs(model, (torch.zeros(2, 1, 28, 28),)))
    assert found == KNOWN[name]


@pytest.mark.parametrize(("name", "depth"), [("cnn", 20), ("cnn-small", 10)])
def test_resnet_depth_is_the_papers(name, depth):
    model = build(resolve(name, {}, DIGITS))
    weighted = [
        layer
        for layer_name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and "shortcut" not in layer_name
    ]
    assert len(weighted) == depth
    assert f"ResNet-{depth}" in REFERENCES[name].about


def test_macs_count_one_sample_and_leave_the_model_alone():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in (1, 5):
        macs = count_macs(model, (torch.randn(batch, 4, 4, 4),))
        assert macs == 4 * (6 * 2 * 9) + 24 * 5
    assert model.training
    assert all(not layer._forward_hooks for layer in model)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_macs_of_a_linear_layer_over_a_sequence():
    assert count_macs(nn.Linear(8, 3), (torch.zeros(2, 11, 8),)) == 11 * 8 * 3


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_block_is_the_papers_formula(channels, stride):
    torch.manual_seed(0)
    block, x = BasicBlock(4, channels, stride).eval(), torch.randn(2, 4, 8, 8)
    shrink = 1 / math.sqrt(1 + 1e-5)  # a fresh normalization in evaluation mode
    hidden = F.relu(F.conv2d(x, block.conv1.weight, stride=stride, padding=1) * shrink)
    hidden = F.conv2d(hidden, block.conv2.weight, padding=1) * shrink
    if channels == 4 and stride == 1:
        shortcut = x
        assert isinstance(block.shortcut, nn.Identity)
    else:
        shortcut = F.conv2d(x, block.shortcut[0].weight, stride=stride) * shrink
    torch.testing.assert_close(block(x), F.relu(hidden + shortcut), atol=1e-5, rtol=1e-5)


def test_convolutions_start_from_hes_initialisation():
    torch.manual_seed(0)
    model = build(resolve("cnn", {}, DIGITS))
    weight = model.stages[2][1].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert model.head.weight.abs().max().item() <= 1 / math.sqrt(64)


@pytest.mark.parametrize(
    ("name", "settings"), [("cnn", {"widths": [8], "blocks": 1}), ("cnn-tiny", {}), ("lenet", {})]
)
def test_dropout_acts_in_training_only(name, settings):
    facts = {**DIGITS, "image_size": 16}
    model = build(resolve(name, {"dropout": 0.5, **settings}, facts))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    x = torch.randn(4, 1, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_stem_stride_quarters_the_work():
    image = (torch.zeros(1, 1, 28, 28),)
    whole = count_macs(build(resolve("cnn", {}, DIGITS)), image)
    halved = count_macs(build(resolve("cnn", {"stem_stride": 2}, DIGITS)), image)
    head = 640
    # 7 x 7 is no multiple of 2: the last stage is 4 x 4.
    assert (
        halved
        == 14 * 14 * RESNET_STAGES[0] // 784
        + RESNET_STAGES[1] // 4
        + (16 * RESNET_STAGES[2] // 49)
        + head
    )
    assert halved < 0.3 * whole


def test_strided_feature_sizes():
    assert StridedConfig().feature_sizes() == [8, 6, 3, 3]
    assert StridedConfig(image_size=12).feature_sizes() == [3, 1, 1, 1]


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (StridedConfig, {"image_size": 4}, "an image of 4 pixels is used up before the last layer"),
        (StridedConfig, {"strides": (1,)}, "need one value for each layer"),
        (ResNetConfig, {"widths": ()}, "at least 1 item"),
        (ResNetConfig, {"blocks": 0}, "greater than or equal to 1"),
        (ResNetConfig, {"dropout": 1.0}, "less than 1"),
        (LeNetConfig, {"image_size": 12}, "greater than or equal to 16"),
        (LeNetConfig, {"width": 3}, "Extra inputs are not permitted"),
    ],
)
def test_configurations_refuse_what_cannot_be_built(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


@pytest.mark.parametrize("name", IMAGES)
def test_the_description_names_the_size(name):
    counted = count_parameters(build(resolve(name, {}, DIGITS)))
    said = re.search(r"(\d+) k parameters", REFERENCES[name].about)
    assert said is not None
    assert round(counted / 1000) == int(said[1])
