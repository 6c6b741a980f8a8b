"""Where the time of one model goes, operator by operator, or of two beside each other."""

from __future__ import annotations

import shlex
from pathlib import Path

from compress.data.references import load_task
from compress.errors import InputError
from compress.measure.config import BenchConfig
from compress.measure.profile import ProfileConfig
from compress.measure.profile import profile as measure_profile
from compress.measure.quality import feeds
from compress.pipeline.bench import describe
from compress.pipeline.find import find_model
from compress.pipeline.origin import origin
from compress.pipeline.pages import write_report
from compress.progress import Progress, quiet
from compress.report.schema import Report
from compress.runtime.onnxruntime import Session

_FUSED = (
    "Operators are those of the graph that onnxruntime made of the file: it fuses nodes, and a "
    "fused node bears the name of one of them."
)


def profile(
    model: Path,
    other: Path | None,
    config: ProfileConfig,
    *,
    data: str | None = None,
    out: Path | None = None,
    progress: Progress = quiet,
) -> Report:
    """Profile one model, or two by turns; every arm of the report has an `Arm.profile`.

    Args:
        model, other: an ONNX file, an artifact folder, a run folder or its report.json (whose final
            model is meant).
        data: task that gives the inputs; without one they are made from the declared shapes.
        out: folder for report.json, .html and .md; None writes nothing.

    Raises:
        InputError: no model there, one model twice, or one that does not take the data.
        WorkerFailed: a model crashes or hangs under the profiler.
    """
    if config.length is not None and data is not None:
        raise InputError(
            f"length: the samples of '{data}' have lengths of their own; leave out one of the two."
        )
    paths = [model] if other is None else [model, other]
    for path in paths:
        if not path.exists():
            raise InputError(
                f"{path}: no such model; expected an ONNX file, an artifact folder or a run folder."
            )
    artifacts = {str(path): find_model(path) for path in paths}
    if len(artifacts) < len(paths):
        raise InputError(f"profile: {model} is named twice; name two models for their difference.")
    files = {name: artifact.onnx for name, artifact in artifacts.items()}
    rows = feeds(load_task(data).validation) if data else None
    # Without a task: a model is described by its file alone, and nothing of it is run here.
    arms, _ = describe(artifacts, None, BenchConfig(), "cpu", 0, progress, None)
    for file in files.values() if rows else ():
        assert rows is not None
        Session(file).check(rows(config.batch))
    profiles = measure_profile(files, config, inputs=rows, progress=progress)
    settings = config.model_dump(mode="json")
    report = Report(
        **origin(
            _command(paths, config, data),
            f"{other} against {model}" if other else f"Profile of {model}",
            {"profile": settings},
        ),
        baseline=arms[0].name,
        final=arms[1].name if other else None,
        arms=[arm.model_copy(update={"profile": profiles[arm.name]}) for arm in arms],
        measurement=settings | {"spinning": False, "profiler": "onnxruntime's own, kernel times"},
        notes=[_FUSED] if data else [_no_data(config), _FUSED],
    )
    if out is not None:
        write_report(report, out)
    return report


def _no_data(config: ProfileConfig) -> str:
    """What the inputs were, and what to do about it."""
    text = "No data was given: inputs are random, and every open dimension but the batch is "
    if config.length is not None:
        return f"{text}{config.length}. Where time goes depends on that."
    return (
        f"{text}1, which makes a sequence one step long. Where time goes depends on that: name a "
        "task, or a length."
    )


def _command(paths: list[Path], config: ProfileConfig, data: str | None) -> str:
    """The command line that repeats a profile."""
    words = ["compress", "profile", *map(str, paths)]
    words += ["--data", data] if data else []
    for name in ("batch", "length", "threads"):
        if (value := getattr(config, name)) != ProfileConfig.model_fields[name].default:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
