"""From YAML to a recipe: everything is checked, and all errors are told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.references import check_task
from compress.errors import InputError, RecipeError, suggest
from compress.models.references import resolve
from compress.recipe.overrides import apply_override
from compress.recipe.reading import read_yaml
from compress.recipe.schema import KINDS, BudgetConfig, Recipe, Stage
from compress.recipe.settings import validate

_TOP = {"task", "model", "budget", "stages", "seed"}
#: Settings that name another stage.
_ROLES = ("teacher", "like")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        overrides: `key=value` pairs such as `prune.macs=0.3` or `budget.max_drop=0.01`; the first
            part is a stage's name or a key of the recipe, the value is read as YAML.

    Raises:
        InputError: the file cannot be read.
        RecipeError: with every error of the recipe and the overrides.
    """
    return parse_recipe(read_yaml(path, "a recipe"), str(path), overrides)


def parse_recipe(content: Any, source: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Validate a recipe given as plain data; see `load_recipe`."""
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise RecipeError(
            source, [f"expected a mapping with task, model and stages, found {found}."]
        )
    errors: list[str] = []
    for key in content.keys() - _TOP:
        errors.append(f"no key '{key}'. Known: {', '.join(sorted(_TOP))}.{suggest(str(key), _TOP)}")
    entries = _entries(content.get("stages"), errors)
    if not any(entry.kind == "benchmark" for entry in entries):
        entries.append(_Entry("stages", "benchmark", {}))
    budget = (
        dict(content.get("budget") or {}) if isinstance(content.get("budget", {}), dict) else {}
    )
    if not isinstance(content.get("budget", {}), dict):
        errors.append("budget: expected a mapping such as {max_drop: 0.01}.")
    top = {
        "task": content.get("task"),
        "model": content.get("model"),
        "seed": content.get("seed", 0),
    }
    for override in overrides:
        targets = {entry.name: entry.settings for entry in entries}
        errors += apply_override(override, top, targets | {"budget": budget})
    model, seed = _model(top["model"], errors), top["seed"]
    task = _task(top["task"], errors)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        errors.append(f"seed: expected a whole number from 0, found {seed!r}.")
    checked_budget = validate(BudgetConfig, budget, "budget", errors)
    stages = _stages(entries, errors)
    if errors:
        raise RecipeError(source, errors)
    assert checked_budget is not None
    return Recipe(task, model, checked_budget, tuple(stages), seed, source)


@dataclass
class _Entry:
    place: str
    kind: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.settings.get("name", self.kind))


def _entries(stages: Any, errors: list[str]) -> list[_Entry]:
    if not isinstance(stages, list) or not stages:
        errors.append("stages: expected a list of stages, such as [{train: {epochs: 15}}].")
        return []
    found = []
    for index, entry in enumerate(stages):
        place = f"stages[{index}]"
        stage = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(stage, dict) or len(stage) != 1:
            errors.append(
                f"{place}: expected one stage such as {{train: {{epochs: 15}}}}, found {stage!r}."
            )
            continue
        ((kind, settings),) = stage.items()
        if kind not in KINDS:
            errors.append(
                f"{place}: no stage '{kind}'. Known: {', '.join(KINDS)}.{suggest(str(kind), KINDS)}"
            )
        elif settings is not None and not isinstance(settings, dict):
            errors.append(f"{place}.{kind}: expected a mapping of settings, found {settings!r}.")
        else:
            found.append(_Entry(f"{place}.{kind}", kind, dict(settings or {})))
    return found


def _task(task: Any, errors: list[str]) -> str:
    if not isinstance(task, str):
        errors.append(
            f"task: expected the name of a task, found {task!r}; see `compress list data`."
        )
        return ""
    try:
        check_task(task)
    except InputError as error:
        errors.append(f"task: {error}")
    return task


def _model(model: Any, errors: list[str], place: str = "model") -> dict[str, Any]:
    if isinstance(model, str):
        model = {"name": model}
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        errors.append(
            f"{place}: expected the name of a model, found {model!r}; see `compress list models`."
        )
        return {}
    try:
        resolve(model["name"], {key: value for key, value in model.items() if key != "name"}, {})
    except InputError as error:
        errors.append(f"{place}: {error}")
    return model


def _stages(entries: list[_Entry], errors: list[str]) -> list[Stage]:
    """The tree of stages; a stage with an error still counts as a name for those behind it."""
    stages: list[Stage] = []
    names: list[str] = []
    for entry in entries:
        settings = dict(entry.settings)
        name, parent = settings.pop("name", entry.kind), settings.pop("from", None)
        errors += _check_names(entry, name, parent, names)
        config = validate(KINDS[entry.kind], settings, entry.place, errors)
        if config is not None:
            errors += _check_roles(entry, config, names)
            if entry.kind == "benchmark" and config.length is not None:
                errors.append(
                    f"{entry.place}.length: a recipe's task gives the samples; length is for "
                    "`compress bench` without data."
                )
            stages.append(
                Stage(
                    entry.kind,
                    str(name),
                    _parent(entry, config, parent, names, [stage.kind for stage in stages]),
                    config,
                )
            )
        if entry.kind != "benchmark":
            names.append(str(name))
    if sum(entry.kind == "benchmark" for entry in entries) > 1:
        errors.append("stages: more than one benchmark; a run measures all its models together.")
    kinds = [stage.kind for stage in stages]
    first = next((kind for kind in kinds if kind != "pretrain"), "pretrain")
    if not errors and first != "train":
        errors.append(f"stages: begin with {first}; the first stage trains the baseline.")
    return stages


def _parent(
    entry: _Entry, config: Any, parent: str | None, names: list[str], kinds: list[str]
) -> str | None:
    """The stage before, unless another is named or this one starts anew."""
    # Training goes on from a pretrained model, where that is the stage before.
    starts = entry.kind in ("pretrain", "benchmark") or getattr(config, "student", None) is not None
    if entry.kind == "train":
        starts = bool(config.like) or not kinds or kinds[-1] != "pretrain"
    return parent if parent is not None or starts or not names else names[-1]


def _check_names(entry: _Entry, name: object, parent: object, names: list[str]) -> list[str]:
    errors = []
    if not isinstance(name, str) or not name or set(name) & set("/\\. ") or name in _TOP:
        errors.append(
            f"{entry.place}.name: expected one word without / . or spaces, found {name!r}."
        )
    elif name in names:
        errors.append(f"{entry.place}: a second stage named '{name}'; give it another with `name`.")
    if parent is not None and parent not in names:
        errors.append(
            f"{entry.place}.from: no earlier stage '{parent}'. "
            f"Known: {', '.join(names) or 'none'}.{suggest(str(parent), names)}"
        )
    return errors


def _check_roles(entry: _Entry, config: Any, names: list[str]) -> list[str]:
    errors: list[str] = []
    for role in _ROLES:
        other = getattr(config, role, None)
        is_path = isinstance(other, str) and ("/" in other or other.endswith(".onnx"))
        if other is not None and not is_path and other not in names:
            errors.append(
                f"{entry.place}.{role}: no earlier stage '{other}'. "
                f"Known: {', '.join(names) or 'none'}.{suggest(str(other), names)}"
            )
    student = getattr(config, "student", None)
    if student is not None:
        _model(student, errors, f"{entry.place}.student")
    return errors
