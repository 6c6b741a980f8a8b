"""A gate file: what a project promises of its models. All errors are found at once.

models: {fp32: baselines/cnn, int8: runs/cnn/4-quantize}   # relative to the file
data: mnist
gates:
  - {compare: int8, with: fp32, metric: latency, batch: 1, at_most: 0.5, only_on: [avx512_vnni]}
  - {compare: int8, with: fp32, metric: accuracy, max_drop: 0.01}

Further keys say how latencies are taken, see `compress.measure.config.CheckTiming`: `threads`,
`affinity`, `warm_up_s`, …, and `margin`: none is decided on a machine where a model strays from
itself by half of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compress.data.references import TASKS, check_task
from compress.errors import InputError, RecipeError, suggest
from compress.measure.config import CheckTiming
from compress.recipe.gate_schema import METRICS, GateConfig, QualityGate
from compress.recipe.reading import NO_YAML, read_yaml
from compress.recipe.settings import validate

#: Names of the two models that `compress check` is given on the command line.
POSITIONAL = ("baseline", "candidate")
_KEYS = ("models", "data", "gates", *CheckTiming.model_fields)


@dataclass(frozen=True)
class GateFile:
    """A validated gate file.

    Attributes:
        models: name to path, those of the command line included.
        data: task for the metrics; None without one.
        timing: how latencies are taken.
        gates: in order.
        source: where it came from, for messages.
    """

    models: dict[str, Path]
    data: str | None
    timing: CheckTiming
    gates: tuple[GateConfig, ...]
    source: str


def is_gate_file(path: Path) -> bool:
    """Whether a YAML file is meant as a gate file and not as a recipe."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, *NO_YAML):
        return False
    return isinstance(content, dict) and "gates" in content and "stages" not in content


def load_gates(
    path: Path, given: Mapping[str, Path] | None = None, data: str | None = None
) -> GateFile:
    """Read and validate a gate file.

    Args:
        given: models of the command line, by the names in `POSITIONAL`; None to validate alone,
            where these names and the data may still be missing.
        data: task that takes the place of the file's.

    Raises:
        InputError: the file cannot be read.
        RecipeError: with every error of it.
    """
    content = read_yaml(path, "a gate file")
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise RecipeError(str(path), [f"expected a mapping with models and gates, found {found}."])
    return _parse(content, path, given, data)


def _parse(
    content: dict[Any, Any], path: Path, given: Mapping[str, Path] | None, data: str | None
) -> GateFile:
    errors = [
        f"no key '{key}'. Known: {', '.join(_KEYS)}.{suggest(str(key), _KEYS)}"
        for key in content
        if key not in _KEYS
    ]
    models = _models(content.get("models"), path.parent, errors)
    twice = [name for name in given or () if name in models]
    errors += [f"models.{name}: is also given on the command line." for name in twice]
    models |= given or {}
    task = data or content.get("data")
    _check_data(task, errors)
    settings = {key: content[key] for key in CheckTiming.model_fields if key in content}
    wrong: list[str] = []
    timing = validate(CheckTiming, settings, "", wrong) or CheckTiming()
    errors += [line.removeprefix(".") for line in wrong]
    gates = [gate for gate in _gates(content.get("gates"), task, errors) if gate]
    for place, gate in gates:
        errors += _check_names(place, gate, models, may_lack=given is None)
        if given is not None and isinstance(gate, QualityGate) and task is None:
            errors.append(f"{place}: {gate.metric} needs data; name the task in `data` or --data.")
    if errors:
        raise RecipeError(str(path), errors)
    found = tuple(gate for _, gate in gates)
    return GateFile(models, task, timing, found, str(path))


def _models(models: Any, folder: Path, errors: list[str]) -> dict[str, Path]:
    if models is None:
        return {}
    if not isinstance(models, dict):
        errors.append(
            f"models: expected names and paths, such as {{int8: m.onnx}}, found {models!r}."
        )
        return {}
    found = {}
    for name, path in models.items():
        if not isinstance(name, str) or not isinstance(path, str) or not path:
            errors.append(f"models.{name}: expected the path of a model, found {path!r}.")
        found[str(name)] = folder / str(path)
    return found


def _check_data(task: Any, errors: list[str]) -> None:
    if task is None:
        return
    if not isinstance(task, str):
        errors.append(
            f"data: expected the name of a task, found {task!r}; see `compress list data`."
        )
        return
    try:
        check_task(task)
    except InputError as error:
        errors.append(f"data: {error}")


def _gates(gates: Any, task: Any, errors: list[str]) -> list[tuple[str, GateConfig]]:
    if not isinstance(gates, list) or not gates:
        errors.append(
            "gates: expected a list of gates, such as "
            "[{compare: int8, with: fp32, metric: size, at_most: 0.3}]."
        )
        return []
    found = []
    for number, entry in enumerate(gates):
        place = f"gates[{number}]"
        if not isinstance(entry, dict):
            errors.append(f"{place}: expected a mapping with compare and metric, found {entry!r}.")
            continue
        schema = _schema(place, entry.get("metric"), task, errors)
        gate = validate(schema, entry, place, errors) if schema else None
        if gate is not None:
            found.append((place, gate))
    return found


def _schema(place: str, metric: Any, task: Any, errors: list[str]) -> type[GateConfig] | None:
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    near = suggest(str(metric), METRICS)
    if isinstance(metric, str) and isinstance(task, str) and task not in TASKS and not near:
        return QualityGate  # a task of one's own may have a metric of its own
    errors.append(
        f"{place}.metric: no metric {metric!r}. Known: {', '.join(METRICS)}; a task of your own "
        f"may have others.{near}"
    )
    return None


def _check_names(
    place: str, gate: GateConfig, models: Mapping[str, Path], *, may_lack: bool
) -> list[str]:
    errors = []
    for key, name in (("compare", gate.compare), ("with", gate.against)):
        if name is None or name in models or (may_lack and name in POSITIONAL):
            continue
        hint = suggest(name, models)
        if name in POSITIONAL:
            hint = f" '{name}' is what `compress check BASELINE CANDIDATE` names."
        known = ", ".join(models) or "none"
        errors.append(f"{place}.{key}: no model named '{name}'. Known: {known}.{hint}")
    return errors
