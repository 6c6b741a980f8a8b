"""One model made int8 on its own: any artifact or ONNX file, judged on any data.

The choice looks at data that is not reported on, as in a recipe; what was chosen is then timed
anew beside the model that came in, and both are judged on the test part.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from compress.artifact import ONNX, Artifact, finish, writing
from compress.errors import NoEffect
from compress.export.graph import operators
from compress.export.loading import load_graph
from compress.measure.config import BenchConfig
from compress.measure.judge import Judge, Part, TaskJudge
from compress.pipeline.compare import Scores
from compress.pipeline.context import Inputs
from compress.pipeline.pages import write_report
from compress.pipeline.portability import elsewhere
from compress.pipeline.quantize_record import QuantizeRecord, for_batch
from compress.pipeline.runner import check_vocabulary
from compress.progress import Progress, quiet
from compress.quantization import best
from compress.quantization.building import build
from compress.quantization.calibration.stored import FILE, Store
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting.crashing import loadable
from compress.quantization.rewriting.files import copy
from compress.recipe import BudgetConfig
from compress.report.schema import Candidate, Quality, Report
from compress.runtime.interface import Target, open_model

_PARTS: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True)
class Quantized:
    """What came of it.

    Attributes:
        artifact: `model.onnx` and its card; the model that came in, where nothing was better.
        candidates: all that was built, with their figures and why they were kept or refused.
        report: None where an interrupt came before the last measurement.
    """

    artifact: Artifact
    candidates: list[Candidate]
    report: Report | None

    @property
    def chosen(self) -> str | None:
        """Name of the candidate; None where the model that came in stays."""
        name = next(entry.name for entry in self.candidates if entry.kept)
        return None if name == best.INPUT else name


def quantize_model(
    parent: Artifact,
    judge: Judge,
    config: QuantizeConfig,
    budget: BudgetConfig,
    out: Path,
    *,
    bench: BenchConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    runtimes: tuple[str, ...] = (),
    command: str = "",
    progress: Progress = quiet,
) -> Quantized:
    """Build, measure and choose; leaves `model.onnx`, `card.json` and the report in `out`.

    Statistics of the calibration stay there as `calibration.npz`, and serve the next call with this
    `out` on the same model and samples.

    Args:
        bench: batch sizes and thread counts that count.
        threads: for answers that are not timed.
        runtimes: to try beside onnxruntime.
        command: what repeats it, for the report.

    Raises:
        NoEffect: the model is quantized already, or is to be fp16 and is that, or one method was
            asked for and refused; nothing is written.
        InputError: the data does not fit the model, or cannot be read.
    """
    began, bench = time.monotonic(), bench or BenchConfig()
    bench.check_here(device)
    _refuse_quantized(parent)
    if config.method == "fp16":
        _refuse_fp16(parent)
    if isinstance(judge, TaskJudge):
        check_vocabulary(Inputs(parent=parent), judge.task)
    store = Store(_kept_after_an_interrupt(out), out / FILE)
    with tempfile.TemporaryDirectory() as folder, writing(out) as scratch:
        parent, notes = _loadable(parent, Path(folder))
        goal = best.Goal(parent.onnx, budget.max_drop, budget.minimise, bench, budget.relative)
        built = build(
            parent.onnx,
            Path(folder),
            judge,
            config,
            seed,
            budget.minimise,
            progress,
            device,
            store,
            runtimes,
            bench.batch[0],
        )
        choice = best.choose(
            parent.onnx,
            built,
            judge,
            goal,
            stage=out.name,
            device=device,
            threads=threads,
            runtimes=runtimes,
            progress=progress,
        )
        best.refuse_single_method(choice, config)
        copy(choice.target.path, scratch / ONNX)
        for batch, alone in choice.alone.items():
            copy(alone.target.path, scratch / for_batch(batch))
        made = QuantizeRecord(
            parent,
            judge,
            config,
            budget,
            bench,
            choice,
            built.rewrites,
            device,
            seed,
            source_notes=notes,
            calibration=built.calibration(),
        )
        done = _finish(made, out, scratch, threads, command, progress, began)
        store.save(scratch / FILE)  # behind the card: a cache is none of its files
    _forget(store.file)
    return done


def _kept_after_an_interrupt(out: Path) -> Path:
    """The statistics' file while there is no result yet, where stages keep their checkpoints."""
    return out.with_name(f".{out.name}.cache") / FILE


def _forget(file: Path) -> None:
    file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        file.parent.rmdir()


def _finish(
    made: QuantizeRecord,
    out: Path,
    scratch: Path,
    threads: int,
    command: str,
    progress: Progress,
    began: float,
) -> Quantized:
    """Judge and time what was chosen beside the model that came in; write card and report."""
    arms = made.arms(scratch / ONNX, out.name)
    qualities, scores = _judged(arms, made.judge, made.device, threads)
    before, *_, after = [*arms, *arms]
    if made.choice.name and made.device == "cpu":
        known = scores[before]["validation"]
        limit = made.budget.limit(float(known.mean()))
        found = elsewhere(scratch / ONNX, known, made.judge, limit, threads)
        made = replace(made, portability=found[0], portability_notes=tuple(found[1]))
    card = made.card(scratch, out.name, qualities[after], time.monotonic() - began)
    artifact, report = Artifact(out, finish(scratch, card)), None
    if not made.choice.interrupted:
        report = made.report(arms, qualities, scores, command, progress)
        write_report(report, scratch)
    return Quantized(artifact, made.choice.account, report)


def _loadable(parent: Artifact, folder: Path) -> tuple[Artifact, tuple[str, ...]]:
    """What comes in with a file that onnxruntime loads, and what there is to say about it."""
    place = folder / "loadable"
    place.mkdir()
    found = loadable(parent.onnx, place)
    if found == parent.onnx:
        return parent, ()
    note = (
        f"onnxruntime crashes as it loads {parent.onnx.name}: a copy in which each If on a known "
        "condition is replaced by its branch stands for it."
    )
    return replace(parent, file=found), (note,)


def _refuse_quantized(parent: Artifact) -> None:
    """What computes with integers has lost what a better way of quantizing would keep."""
    counts = operators(load_graph(parent.onnx))
    int8 = {
        kind: sum(n for precision, n in entry.items() if precision.startswith("int"))
        for kind, entry in counts.items()
    }
    found = ", ".join(f"{n} {kind}" for kind, n in int8.items() if n)
    if found:
        raise NoEffect(
            f"{parent.onnx}: is already quantized ({found} in integers); give the model in fp32 "
            "that it was made from."
        )


def _refuse_fp16(parent: Artifact) -> None:
    """What computes in fp16 already would come out as it went in."""
    counts = operators(load_graph(parent.onnx))
    if {precision for entry in counts.values() for precision in entry} == {"fp16"}:
        found = ", ".join(f"{entry['fp16']} {kind}" for kind, entry in counts.items())
        raise NoEffect(
            f"{parent.onnx}: computes in fp16 already ({found}); give a model in fp32, or use "
            "method=best for int8."
        )


def _judged(
    arms: Mapping[str, Target], judge: Judge, device: str, threads: int
) -> tuple[dict[str, dict[str, Quality]], dict[str, Scores]]:
    """Of each arm its quality and its scores on both parts that nothing was calibrated on."""
    qualities: dict[str, dict[str, Quality]] = {}
    scores: dict[str, Scores] = {}
    for name, target in arms.items():
        model = open_model(target.runtime, target.path, device, threads)
        judged = {part: judge.judged(model, part) for part in _PARTS}
        qualities[name] = {part: quality for part, (quality, _) in judged.items()}
        scores[name] = {part: found for part, (_, found) in judged.items()}
    return qualities, scores
