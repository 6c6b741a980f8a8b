"""What a model reference names: a reference model, or the user's own factory. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import InputError, UnknownName, suggest
from compress.models.configs import LeNetConfig, ModelConfig, ResNetConfig, StridedConfig


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


ARCHITECTURES: dict[str, type[ModelConfig]] = {
    "resnet": ResNetConfig,
    "strided": StridedConfig,
    "lenet": LeNetConfig,
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
    merged = {**reference.settings, **facts, **settings}
    try:
        config = ARCHITECTURES[reference.architecture].model_validate(merged)
    except ValidationError as error:
        raise InputError(f"model '{name}': {explain(error, reference.architecture)}") from None
    return ModelSpec(architecture=reference.architecture, config=config.model_dump(mode="json"))


def explain(error: ValidationError, architecture: str) -> str:
    """The first error of a model's settings in one line, with the nearest name for a typo."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        known = list(ARCHITECTURES[architecture].model_fields)
        return f"no setting named '{key}'. Known: {', '.join(known)}.{suggest(key, known)}"
    return f"{key}: {first['msg']}, found {first['input']!r}."
