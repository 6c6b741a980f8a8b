"""What a model reference names: a reference model, or the user's own factory. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import InputError, UnknownName, suggest
from compress.models.configs import LeNetConfig, ModelConfig, ResNetConfig, StridedConfig
from compress.models.sequence_configs import RecurrentConfig, SequenceConfig, TransformerConfig


class ModelSpec(BaseModel):
    """All that is needed to build a model anew, without its weights.

    Attributes:
        architecture: a key of `ARCHITECTURES`, or `package.module:factory`, or `file.py:factory`.
        config: the architecture's configuration; keyword arguments of a factory.
        plan: what pruning left of each layer, see `compress.models.plan`; empty for a whole model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    config: dict[str, Any] = {}
    plan: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Reference:
    """A named model: an architecture, the settings that differ from its defaults, and why."""

    architecture: str
    settings: Mapping[str, Any]
    about: str


ARCHITECTURES: dict[str, type[ModelConfig | SequenceConfig]] = {
    "resnet": ResNetConfig,
    "strided": StridedConfig,
    "lenet": LeNetConfig,
    "recurrent": RecurrentConfig,
    "transformer": TransformerConfig,
}

REFERENCES: dict[str, Reference] = {
    "cnn": Reference("resnet", {}, "ResNet-20, 272 k parameters at 10 classes"),
    "cnn-small": Reference(
        "resnet", {"widths": (16, 32), "blocks": 2}, "ResNet-10, two stages, 43 k parameters"
    ),
    "cnn-tiny": Reference("strided", {}, "four convolutions, strided early, 27 k parameters"),
    "lenet": Reference(
        "lenet", {}, "LeNet-5: two convolutions, three linear layers, 62 k parameters"
    ),
    "rnn": Reference(
        "recurrent", {"cell": "rnn", "widths": (128,)}, "Elman RNN, one layer of 128, tanh"
    ),
    "lstm": Reference("recurrent", {"widths": (128,)}, "LSTM, one layer of 128"),
    "gru": Reference("recurrent", {"cell": "gru", "widths": (128, 128)}, "GRU, two layers of 128"),
    "bilstm": Reference(
        "recurrent",
        {"widths": (256, 256), "bidirectional": True, "dropout": 0.2},
        "bidirectional LSTM, two layers of 2 × 256, 2.1 M parameters",
    ),
    "lstm-small": Reference(
        "recurrent",
        {"widths": (64,), "front_width": 32, "front_stride": 3},
        "convolution over time with stride 3, then an LSTM of 64",
    ),
    "transformer": Reference(
        "transformer",
        {"dropout": 0.1},
        "BERT-style encoder: self-attention, pre-norm, two layers of 128",
    ),
    "transformer-small": Reference(
        "transformer",
        {"width": 64, "heads": (2,), "feed_forward": (128,)},
        "the same, one layer of 64",
    ),
    "gpt": Reference(
        "transformer",
        {"causal": True, "heads": (4, 4, 4, 4), "feed_forward": (512, 512, 512, 512)},
        "GPT-style decoder, four layers of 128: every step sees those before it",
    ),
    "gpt-small": Reference(
        "transformer",
        {"causal": True, "width": 96, "heads": (3, 3), "feed_forward": (256, 256)},
        "the same, two layers of 96",
    ),
}


def is_factory(name: str) -> bool:
    """Whether a model reference names the user's own factory, as in `package.module:function`."""
    return ":" in name


def resolve(name: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> ModelSpec:
    """The specification that a model reference stands for.

    Args:
        name: a key of `REFERENCES`, or `package.module:factory`, or `file.py:factory`.
        settings: what the user sets; wins over the reference's own settings.
        facts: what the task says of its data (`classes`, `in_channels`, `image_size`).

    Raises:
        UnknownName: no reference model of that name.
        InputError: a setting that the architecture does not have, has the wrong type for, or that
            contradicts the task.
    """
    if is_factory(name):
        return ModelSpec(architecture=name, config=dict(settings))
    if name not in REFERENCES:
        raise UnknownName("model", name, REFERENCES)
    for key in settings.keys() & facts.keys():
        if settings[key] != facts[key]:
            raise InputError(
                f"model '{name}': {key} is {settings[key]}, but the data has {facts[key]}; "
                f"leave {key} out to take it from the data."
            )
    reference = REFERENCES[name]
    _check_inputs(name, reference.architecture, facts)
    merged = {**reference.settings, **facts, **settings}
    try:
        config = ARCHITECTURES[reference.architecture].model_validate(merged)
    except ValidationError as error:
        raise InputError(f"model '{name}': {explain(error, reference.architecture)}") from None
    return ModelSpec(architecture=reference.architecture, config=config.model_dump(mode="json"))


def _check_inputs(name: str, architecture: str, facts: Mapping[str, Any]) -> None:
    """Images go to convolutions, sequences to the other families."""
    if _takes(architecture, facts):
        return
    takes, gives = ("images", "sequences") if "outputs" in facts else ("sequences", "images")
    fitting = [key for key, entry in REFERENCES.items() if _takes(entry.architecture, facts)]
    raise InputError(
        f"model '{name}' takes {takes}, but the task gives {gives}. "
        f"Models for it: {', '.join(fitting)}."
    )


def _takes(architecture: str, facts: Mapping[str, Any]) -> bool:
    return facts.keys() <= ARCHITECTURES[architecture].model_fields.keys()


def explain(error: ValidationError, architecture: str) -> str:
    """The first error of a model's settings in one line, with the nearest name for a typo."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # of the settings together: the message names them
        return f"{first['msg'].removeprefix('Value error, ')}."
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        known = list(ARCHITECTURES[architecture].model_fields)
        return f"no setting named '{key}'. Known: {', '.join(known)}.{suggest(key, known)}"
    return f"{key}: {first['msg']}, found {first['input']!r}."
