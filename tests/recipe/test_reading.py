"""YAML as it is read here: as PyYAML has it, but no key may be given twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import RecipeError
from compress.recipe import load_recipe
from compress.recipe.gate_file import is_gate_file, load_gates
from compress.recipe.overrides import read_pair
from compress.recipe.reading import parse_yaml

RECIPE = """task: mnist
model: cnn
stages:
  - train: {epochs: 3}
  - prune:
      macs: 0.4
      strides: {stem: 2, stem: 1}
      macs: 0.5
task: reviews
"""
GATES = """models:
  int8: a.onnx
  fp32: b.onnx
  int8: c.onnx
gates:
  - {compare: int8, with: fp32, metric: latency,
     at_most: 0.5, at_most: 2.0}
"""


def said(caught: pytest.ExceptionInfo[RecipeError], path: Path) -> list[str]:
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def twice(line: int, key: str, first: int) -> str:
    return (
        f"line {line}: the key '{key}' is given a second time, the first is in line {first}; "
        "keep one of them."
    )


def test_a_recipe_with_keys_given_twice_names_every_line(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said(caught, path) == [twice(7, "stem", 7), twice(8, "macs", 6), twice(9, "task", 1)]


def test_a_gate_file_with_keys_given_twice(tmp_path: Path):
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    assert is_gate_file(path)
    with pytest.raises(RecipeError) as caught:
        load_gates(path)
    assert said(caught, path) == [twice(4, "int8", 2), twice(7, "at_most", 7)]


def test_an_override_with_a_key_given_twice():
    with pytest.raises(RecipeError) as caught:
        read_pair("prune.strides={stem: 2, stem: 1}")
    assert str(caught.value) == f"'prune.strides={{stem: 2, stem: 1}}': {twice(1, 'stem', 1)}"


def test_the_same_key_may_stand_in_two_places():
    text = "{a: &x {k: 1}, b: {k: 2}, c: [{k: 3}, {k: 4}], d: *x, e: {<<: *x, k: 5}}"
    assert parse_yaml(text, "f")["e"] == {"k": 5}
    assert parse_yaml(text, "f") == yaml.safe_load(text)
    assert parse_yaml("", "f") is None
    assert parse_yaml("{1: a, '1': b}", "f") == {1: "a", "1": "b"}


def test_what_is_no_yaml_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "gates.yaml"
    for text in ("a: [", "a: 2026-13-45", "[" * 20_000, "a: 1\n---\nb: 2", "{[1]: 2}: 3"):
        path.write_text(text)
        assert not is_gate_file(path)
        with pytest.raises(RecipeError) as caught:
            load_gates(path)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{path}: not YAML: ")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN)
def test_all_else_is_read_as_pyyaml_reads_it(content: object):
    assert parse_yaml(yaml.safe_dump(content), "f") == content
