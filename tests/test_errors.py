"""The error tree and its messages; the public surface, and that importing it stays light."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import compress
from compress import errors
from compress.errors import CompressError, InputError, RecipeError, UnknownName, suggest

PUBLIC = {
    "Artifact",
    "CompressError",
    "Recipe",
    "Report",
    "__version__",
    "load_recipe",
    "load_report",
    "run",
}


def test_public_surface_is_exactly_this():
    assert set(compress.__all__) == PUBLIC
    assert sorted(set(compress.__all__)) == sorted(compress.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_public_names_exist_and_are_described(name):
    value = getattr(compress, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="module 'compress' has no attribute 'prune_all'"):
        compress.prune_all  # noqa: B018


@pytest.mark.parametrize(
    "module",
    ["compress", "compress.models.references", "compress.data.references", "compress.errors"],
)
def test_import_is_light(module):
    code = (
        f"import sys, {module}; "
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_drawn_tree_is_the_real_one():
    drawn = re.findall(r"(?:├──|└──) (\w+)(?: +(\d))?", errors.__doc__)
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, CompressError) and kind is not CompressError
    }
    assert {name for name, _ in drawn} == kinds.keys()
    for name, code in drawn:
        assert kinds[name].exit_code == int(code or InputError.exit_code)
        assert issubclass(kinds[name], InputError) == (not code or name == "InputError")


def test_unknown_name_says_all_there_is_and_the_nearest():
    error = UnknownName("dataset", "mnits", ["spoken-digits", "mnist", "reviews"])
    assert str(error) == (
        "No dataset named 'mnits'. Known: mnist, reviews, spoken-digits. Did you mean 'mnist'?"
    )
    assert error.exit_code == 2


def test_unknown_name_says_where():
    error = UnknownName("stage", 7, ["train"], place="cnn.yaml: stages[2]")
    assert str(error) == "cnn.yaml: stages[2]: No stage named '7'. Known: train."


def test_nothing_is_suggested_for_something_far():
    assert suggest("transformer", ["mnist", "reviews"]) == ""
    assert suggest("prne", ["train", "prune"]) == " Did you mean 'prune'?"


def test_recipe_error_keeps_every_line():
    error = RecipeError("cnn.yaml", ["model: missing", "stages: empty"])
    assert str(error).splitlines() == ["cnn.yaml: model: missing", "cnn.yaml: stages: empty"]
    assert error.errors == ["model: missing", "stages: empty"]


def test_an_error_of_a_recipe_is_one_line_whatever_the_file_held():
    error = RecipeError("cnn.yaml", ["task: no task 'a\x1eb\nc'"])
    assert str(error) == "cnn.yaml: task: no task 'a b c'"
