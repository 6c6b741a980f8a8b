"""This project's own gate: int8 models made today from stored weights, against stored int8 models.

    python -m benchmarks.baselines check            about a minute; part of `.ci/run`
    python -m benchmarks.baselines check lstm       one family
    python -m benchmarks.baselines make             trains anew, replaces all that is stored

For each family `benchmarks/baselines/NAME` holds the weights (`fp32`) and the int8 ONNX file that
they became when it was stored (`int8`). The trainings are of a few epochs: what matters is that the
weights stay the same, not how good they are. A change that is meant to change the int8 files stores
new ones: `make --keep-weights`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compress.artifact import ONNX, Artifact, Card, digest, finish, load_artifact, writing
from compress.data.references import load_task
from compress.data.task import Task
from compress.measure.judge import TaskJudge
from compress.measure.machine import versions
from compress.models.build import build, count_macs, count_parameters
from compress.models.references import resolve
from compress.pipeline.gates import check_gates
from compress.pipeline.stages import export_model
from compress.quantization import best
from compress.quantization.config import QuantizeConfig
from compress.recipe.gate_file import load_gates
from compress.training.batches import LabelledBatches
from compress.training.config import FitConfig
from compress.training.loop import fit
from compress.training.losses import label_loss

FOLDER = Path(__file__).parent / "baselines"
GATES = FOLDER / "gates.yaml"


class Family(NamedTuple):
    """A model small enough for the repository, and how it becomes int8."""

    task: str
    model: str
    settings: dict[str, Any]
    fit: FitConfig
    quantize: QuantizeConfig


_FIT = FitConfig(epochs=6, optimizer="adamw", learning_rate=0.01, precision="fp32", augment=False)
_DYNAMIC = QuantizeConfig(method="dynamic")
FAMILIES = {
    "cnn": Family(
        "mnist", "cnn-tiny", {"widths": [8, 16, 16, 32]}, _FIT, QuantizeConfig(method="static")
    ),
    "lstm": Family("spoken-digits", "lstm", {"widths": [48]}, _FIT, _DYNAMIC),
    "transformer": Family(
        "spoken-digits",
        "transformer-small",
        {"width": 32, "heads": [2], "head_width": 16, "feed_forward": [64]},
        _FIT,
        _DYNAMIC,
    ),
}


def main() -> None:
    """Make or check; the exit code is 1 where a gate is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["check", "make"])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), help=", ".join(FAMILIES))
    parser.add_argument("--keep-weights", action="store_true", help="make int8 files anew only")
    arguments = parser.parse_args()
    broken = []
    for name in arguments.families:
        if arguments.what == "make":
            make(name, keep_weights=arguments.keep_weights)
        elif not check(name):
            broken.append(name)
    if broken:
        sys.exit(f"regressed: {', '.join(broken)}; if that is meant, `make --keep-weights`.")


def make(name: str, *, keep_weights: bool = False) -> None:
    """Store one family's weights and int8 file."""
    family = FAMILIES[name]
    task = load_task(family.task)
    if not keep_weights:
        train(family, task, FOLDER / name / "fp32")
    quantize(family, task, load_artifact(FOLDER / name / "fp32"), FOLDER / name / "int8")
    stored = sum(path.stat().st_size for path in (FOLDER / name).rglob("*") if path.is_file())
    print(f"{name}: {stored:,} bytes stored", flush=True)


def check(name: str) -> bool:
    """Whether one family's int8 file, made anew, keeps every gate; inconclusive passes."""
    family = FAMILIES[name]
    task = load_task(family.task)
    stored = FOLDER / name
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8"
        quantize(family, task, load_artifact(stored / "fp32"), made)
        given = {"baseline": stored / "int8", "candidate": made}
        report = check_gates(load_gates(GATES, given, family.task))
    assert report.gate is not None
    print(f"{name}: {report.gate.explanation}", flush=True)
    return report.gate.verdict != "regressed"


def train(family: Family, task: Task, folder: Path) -> None:
    """A short training in fp32, whose weights are stored."""
    spec = resolve(family.model, family.settings, task.facts)
    torch.manual_seed(0)
    model = build(spec)
    batches = LabelledBatches(task.train, family.fit.batch_size)
    fit(model, batches, label_loss(task.kind), family.fit)
    settings = family.fit.model_dump(mode="json")
    card = Card(
        kind="train",
        name="fp32",
        task=family.task,
        key=digest([family.task, spec.model_dump(mode="json"), settings]),
        model=spec,
        config=settings,
        versions=versions(),
    )
    with writing(folder) as scratch:
        finish(scratch, card, model)


def quantize(family: Family, task: Task, source: Artifact, folder: Path) -> None:
    """Export the stored weights and quantize them, by the functions that recipes use."""
    model = source.load_model()
    sample = task.train.typical(1)
    settings = family.quantize.model_dump(mode="json")
    card = Card(
        kind="quantize",
        name="int8",
        task=family.task,
        key=digest([source.identity, settings]),
        parents={"from": source.identity},
        config=settings,
        versions=versions(),
        evidence={
            "parameters": [count_parameters(model)],
            "macs": [count_macs(model, sample)],
        },
    )
    with writing(folder) as scratch, tempfile.TemporaryDirectory() as building:
        exported = Path(building) / "fp32.onnx"
        export_model(model, task, exported)
        files, failures = best.build(exported, Path(building), TaskJudge(task), family.quantize)
        if len(files) != 1:
            sys.exit(f"{family.model}: expected one {family.quantize.method} model: {failures}")
        shutil.copyfile(next(iter(files.values())), scratch / ONNX)
        finish(scratch, card)


if __name__ == "__main__":
    main()
