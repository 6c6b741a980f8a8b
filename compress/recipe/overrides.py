"""`key=value` pairs: overrides of a recipe, and settings of a stage on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.errors import InputError, suggest
from compress.recipe.reading import NO_YAML, parse_yaml


def read_pair(text: str) -> tuple[list[str], Any]:
    """The keys before the equals sign, split at dots, and the value behind it, read as YAML.

    Raises:
        InputError: there is no equals sign, the value is not YAML, or has a key twice.
    """
    path, equals, raw = text.partition("=")
    if not equals or not all(path.split(".")):
        raise InputError(f"'{text}': expected key=value, such as epochs=5.")
    try:
        return path.split("."), parse_yaml(raw, f"'{text}'")
    except NO_YAML:
        raise InputError(f"'{text}': the value is not YAML.") from None


def put(settings: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value inside nested mappings, in place."""
    for key in keys[:-1]:
        inner = settings.get(key)
        settings[key] = dict(inner) if isinstance(inner, dict) else {}
        settings = settings[key]
    settings[keys[-1]] = value


def settings_from_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of one stage from `key=value` arguments.

    Raises:
        InputError: an argument that is no pair.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        put(settings, *read_pair(pair))
    return settings


def apply_override(text: str, top: dict[str, Any], targets: dict[str, dict[str, Any]]) -> list[str]:
    """Apply one override to a recipe's content, in place; gives its errors.

    Args:
        top: the recipe's single values: task, model, seed.
        targets: the budget and, by name, the settings of every stage.
    """
    try:
        keys, value = read_pair(text)
    except InputError as error:
        return [f"override {error}"]
    head, rest = keys[0], keys[1:]
    if not rest and head in top:
        top[head] = value
    elif rest and head == "model":
        model = top["model"]
        top["model"] = {"name": model} if isinstance(model, str) else dict(model or {})
        put(top["model"], rest, value)
    elif rest and head in targets:
        put(targets[head], rest, value)
    else:
        known = [*targets, *top]
        return [
            f"override '{text}': no stage or key '{head}'. "
            f"Known: {', '.join(known)}.{suggest(head, known)}"
        ]
    return []
