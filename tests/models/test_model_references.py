"""Model references: names, settings, the task's facts, and the user's own factories."""

from __future__ import annotations

import sys

import pytest
import tiny
import torch
from pydantic import ValidationError

from compress.errors import ArtifactError, InputError, UnknownName
from compress.models.build import build
from compress.models.references import REFERENCES, ModelSpec, resolve

FACTS = {"classes": 4, "in_channels": 1, "image_size": 20}


def test_settings_win_over_the_reference_and_facts_fill_in():
    spec = resolve("cnn-small", {"blocks": 1}, FACTS)
    assert spec.architecture == "resnet"
    assert spec.config == {
        "in_channels": 1,
        "image_size": 20,
        "classes": 4,
        "dropout": 0.0,
        "widths": [16, 32],
        "blocks": 1,
        "stem_stride": 1,
    }


SEQUENCES = {"in_features": 5, "outputs": 3, "max_length": 20}


@pytest.mark.parametrize("name", REFERENCES)
def test_specification_survives_json(name):
    images = REFERENCES[name].architecture in ("resnet", "strided", "lenet")
    spec = resolve(name, {}, FACTS if images else SEQUENCES)
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    torch.manual_seed(3)
    one = build(spec).state_dict()
    torch.manual_seed(3)
    other = build(again).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(
        UnknownName, match=r"No model named 'cnn-tyni'\. Known: bilstm, .*'cnn-tiny'"
    ):
        resolve("cnn-tyni", {}, FACTS)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "cnn",
            {"classes": 10},
            "model 'cnn': classes is 10, but the data has 4; "
            "leave classes out to take it from the data.",
        ),
        (
            "lenet",
            {"hiden": [1, 2]},
            "model 'lenet': no setting named 'hiden'. Known: in_channels, image_size, classes, "
            "dropout, widths, hidden. Did you mean 'hidden'?",
        ),
        (
            "cnn",
            {"blocks": "many"},
            "model 'cnn': blocks: Input should be a valid integer, unable to parse string as an "
            "integer, found 'many'.",
        ),
        (
            "cnn",
            {"widths": [16, 0]},
            "model 'cnn': widths.1: Input should be greater than or equal to 1, found 0.",
        ),
    ],
)
def test_wrong_settings_are_one_line(name, settings, message):
    with pytest.raises(InputError) as caught:
        resolve(name, settings, FACTS)
    assert str(caught.value) == message


def test_equal_settings_and_facts_do_not_contradict():
    assert resolve("cnn", {"classes": 4}, FACTS) == resolve("cnn", {}, FACTS)


def test_specification_is_frozen_and_refuses_unknown_keys():
    with pytest.raises(ValidationError, match="frozen"):
        resolve("cnn", {}, FACTS).architecture = "lenet"
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelSpec(architecture="cnn", plans={})


def test_factory_of_a_module():
    model = build(resolve("tiny:model", {"width": 4}, FACTS))
    assert model[0].out_channels == 4
    assert model(torch.zeros(2, 1, 12, 12)).shape == (2, 4)


def test_factory_of_a_file(tmp_path):
    path = tmp_path / "own_network.py"
    path.write_text("from torch import nn\ndef make(out=3):\n    return nn.Linear(5, out)\n")
    model = build(resolve(f"{path}:make", {"out": 7}, {}))
    assert (model.in_features, model.out_features) == (5, 7)


@pytest.mark.parametrize(
    ("reference", "settings", "message"),
    [
        ("tiny:net", {}, "model 'tiny:net': AttributeError: module 'tiny' has no attribute 'net'"),
        ("no_such:model", {}, "model 'no_such:model': ModuleNotFoundError: No module named"),
        ("gone.py:model", {}, "model 'gone.py:model': FileNotFoundError: no file gone.py"),
        ("tiny:model", {"depth": 3}, "model 'tiny:model': TypeError: model() got an unexpected"),
        ("tiny:task", {}, "model 'tiny:task' gave a Task; expected a torch.nn.Module."),
    ],
)
def test_factory_that_gives_no_model(reference, settings, message):
    with pytest.raises(InputError) as caught:
        build(resolve(reference, settings, FACTS))
    assert str(caught.value).startswith(message)


def test_factory_takes_a_plan():
    plan = {"0": {"out_channels": 3}, "1": {"num_features": 3}, "3": {"in_channels": 3}}
    model = build(ModelSpec(architecture="tiny:model", plan=plan))
    assert model(torch.zeros(2, 1, 12, 12)).shape == (2, len(tiny.CLASSES))
    assert model[0].weight.shape == (3, 1, 3, 3)


def test_plan_for_another_architecture():
    plan = {"stages.9.0.conv1": {"out_channels": 4}}
    with pytest.raises(ArtifactError, match=r"names layer 'stages\.9\.0\.conv1', which the arch"):
        build(resolve("cnn", {}, FACTS).model_copy(update={"plan": plan}))


def test_factory_file_does_not_take_a_modules_place(tmp_path):
    import queue

    path = tmp_path / "queue.py"
    path.write_text("from torch import nn\ndef make():\n    return nn.Linear(5, 2)\n")
    build(resolve(f"{path}:make", {}, {}))
    assert sys.modules["queue"] is queue
