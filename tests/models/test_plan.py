"""A pruned model is rebuilt from its plan: the same shapes, the same outputs to the last bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from compress.errors import ArtifactError
from compress.models.build import build
from compress.models.plan import apply_plan, make_plan
from compress.models.references import ModelSpec, resolve
from compress.pruning import structured
from compress.pruning.config import PruneConfig
from compress.pruning.structured import prune


@pytest.mark.parametrize(
    ("name", "settings", "strides"),
    [
        ("cnn", {"widths": [8, 16], "blocks": 1}, {"stem": 2}),
        ("cnn-tiny", {}, {}),
        ("tiny:model", {}, {}),
    ],
)
def test_pruned_model_is_rebuilt_exactly(name, settings, strides, tiny_task, monkeypatch):
    monkeypatch.setattr(structured, "BISECTIONS", 2)
    spec = resolve(name, settings, tiny_task.facts)
    torch.manual_seed(1)
    whole = build(spec).eval()
    config = PruneConfig(ratio=0.4, round_to=2, importance="magnitude", strides=strides)
    pruned, _ = prune(whole, tiny_task, config)
    plan = json.loads(json.dumps(make_plan(pruned, build(spec))))
    text = spec.model_copy(update={"plan": plan}).model_dump_json()
    rebuilt = build(ModelSpec.model_validate_json(text)).eval()
    shapes = {key: value.shape for key, value in rebuilt.state_dict().items()}
    assert shapes == {key: value.shape for key, value in pruned.state_dict().items()}
    rebuilt.load_state_dict(pruned.state_dict(), strict=True)
    inputs = tiny_task.test.inputs
    with torch.inference_mode():
        assert torch.equal(rebuilt(inputs), pruned(inputs))
        assert not torch.equal(rebuilt(inputs), whole(inputs))


def test_whole_model_needs_no_plan(tiny_spec):
    assert make_plan(build(tiny_spec), build(tiny_spec)) == {}


def test_plan_names_only_what_differs(tiny_spec):
    pruned = build(tiny_spec)
    pruned.stages[0][0].conv1.stride = (2, 2)
    assert make_plan(pruned, build(tiny_spec)) == {"stages.0.0.conv1": {"stride": (2, 2)}}


def test_rebuilt_layers_are_freshly_initialised():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2, bias=False))
    plan = {
        "0": {"in_channels": 2, "out_channels": 4, "stride": [2, 2]},
        "1": {"num_features": 4},
        "2": {"in_features": 4},
    }
    apply_plan(model, plan)
    assert model[0].weight.shape == (4, 2, 3, 3)
    assert model[0].stride == (2, 2)
    assert model[0].bias.tolist() == [0.0] * 4
    assert model[1].weight.tolist() == model[1].running_var.tolist() == [1.0] * 4
    assert model[1].bias.tolist() == model[1].running_mean.tolist() == [0.0] * 4
    assert model[2].weight.shape == (2, 4)
    assert model[2].bias is None
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_depthwise_convolution_is_rebuilt():
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8))

    pruned = make()
    pruned[0] = nn.Conv2d(1, 5, 3)
    pruned[1] = nn.Conv2d(5, 5, 3, groups=5)
    whole = make()
    plan = make_plan(pruned, whole)
    assert plan["1"] == {"in_channels": 5, "out_channels": 5, "groups": 5}
    whole.load_state_dict(pruned.state_dict(), strict=True)


def test_change_that_a_plan_cannot_say():
    whole = nn.Sequential(nn.Conv2d(1, 8, 3), nn.PReLU(8))
    pruned = copy.deepcopy(whole)
    pruned[0], pruned[1] = nn.Conv2d(1, 6, 3), nn.PReLU(6)
    with pytest.raises(ArtifactError) as caught:
        make_plan(pruned, whole)
    assert str(caught.value) == (
        "1.weight: pruned to (6,), which a plan cannot rebuild; exclude that layer with `keep`."
    )


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"3": {"out_channels": 1}}, "the plan names layer '3', which the architecture lacks."),
        ({"0": {"width": 1}}, "the plan sets 'width' of layer '0', which it lacks."),
        ({"1": {"out_channels": 1}}, "the plan sets 'out_channels' of layer '1', which it lacks."),
    ],
)
def test_plan_that_does_not_fit(plan, message):
    with pytest.raises(ArtifactError) as caught:
        apply_plan(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), plan)
    assert str(caught.value) == message
