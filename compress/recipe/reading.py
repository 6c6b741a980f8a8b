"""Reading YAML; a key that is given twice is an error, where PyYAML lets the last one win."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from compress.errors import InputError, RecipeError

#: What reading raises where a text is no YAML: a date such as 2026-13-45 is a ValueError.
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file.

    Args:
        what: the file is meant to be, such as "a recipe".

    Raises:
        InputError: the file cannot be read.
        RecipeError: it is no YAML, or keys are given twice; all of them at once.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected {what}.") from None
    except NO_YAML as error:
        raise RecipeError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from None


def parse_yaml(text: str, source: str) -> Any:
    """What a text in YAML says, as plain data.

    Raises:
        NO_YAML: it is none.
        RecipeError: keys are given twice.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if twice := sorted(_given_twice(root)):
            raise RecipeError(source, [text for _, text in twice])
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _given_twice(root: Node) -> Iterator[tuple[int, str]]:
    """The line of each key that its mapping has already, and what to say of it."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            waiting += node.value
        if isinstance(node, MappingNode):
            waiting += [value for _, value in node.value]
            yield from _in_mapping(node)


def _in_mapping(node: MappingNode) -> Iterator[tuple[int, str]]:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in first:
            text = (
                f"line {line}: the key '{key.value}' is given a second time, the first is in line"
            )
            yield line, f"{text} {first[name]}; keep one of them."
        first.setdefault(name, line)
