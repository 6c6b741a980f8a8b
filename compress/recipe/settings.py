"""Validation of one technique's settings, with every error and the nearest name for a typo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from compress.errors import RecipeError, suggest
from compress.recipe.schema import KINDS


def validate(
    schema: type[Any], settings: Mapping[str, Any], place: str, errors: list[str]
) -> Any | None:
    """Settings as their schema has them, or None with every error added to `errors`."""
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        errors += [f"{place}{line}" for line in explain(error, schema)]
        return None


def explain(error: ValidationError, schema: type[BaseModel]) -> Iterator[str]:
    """Every error of some settings, each as `.key: what is wrong`."""
    for entry in error.errors():
        key = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            fields = _schema_at(schema, entry["loc"][:-1]).model_fields
            known = [field.alias or name for name, field in fields.items()]
            name = str(entry["loc"][-1])
            yield f": no setting '{key}'. Known: {', '.join(known)}.{suggest(name, known)}"
        elif entry["type"] == "missing":
            yield f".{key}: is missing."
        elif not key:
            yield f": {entry['msg'].removeprefix('Value error, ')}."
        else:
            message = entry["msg"].removeprefix("Value error, ")
            yield f".{key}: {message}" + (
                "" if message.endswith("?") else f", found {entry['input']!r}."
            )


def _schema_at(schema: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The class of the settings at a place inside others."""
    for part in place:
        field = schema.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            break
        if issubclass(field.annotation, BaseModel):
            schema = field.annotation
    return schema


def check_settings(kind: str, settings: Mapping[str, Any]) -> Any:
    """The validated settings of one technique.

    Raises:
        RecipeError: with every error.
    """
    return validated(KINDS[kind], settings, kind)


def validated(schema: type[Any], settings: Mapping[str, Any], place: str) -> Any:
    """Settings as their schema has them; RecipeError with every error of them."""
    errors: list[str] = []
    config = validate(schema, settings, place, errors)
    if errors:
        raise RecipeError("settings", errors)
    return config
