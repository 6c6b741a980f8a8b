"""The card and the report of one model that was quantized on its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import compress
from compress.artifact import ONNX, Artifact, Card, digest, wrap_onnx
from compress.export.graph import operators
from compress.export.loading import load_graph
from compress.measure.config import BenchConfig
from compress.measure.judge import Judge, TaskJudge
from compress.measure.latency import Measured, measure, measure_memory
from compress.measure.machine import machine, versions
from compress.measure.memory import available
from compress.onnx_files import size_bytes
from compress.pipeline.benchmark import measurement
from compress.pipeline.compare import Scores, compare
from compress.pipeline.decide import judge as judge_budget
from compress.pipeline.origin import origin
from compress.pipeline.runtimes import arm_facts
from compress.pipeline.timing import that_fits
from compress.progress import Progress
from compress.quantization import best
from compress.quantization.account import account_of_nodes
from compress.quantization.config import QuantizeConfig
from compress.quantization.rewriting.simplify import Rewrite
from compress.recipe import BudgetConfig
from compress.report.schema import Arm, Quality, Report
from compress.runtime.interface import Target
from compress.runtime.onnxruntime import Session


def for_batch(batch: int) -> str:
    """File name of a model for calls of one size alone."""
    return f"model-batch-{batch}.onnx"


@dataclass(frozen=True)
class QuantizeRecord:
    """Everything that the card and the report are written from."""

    parent: Artifact
    judge: Judge
    config: QuantizeConfig
    budget: BudgetConfig
    bench: BenchConfig
    choice: best.Choice
    rewrites: list[Rewrite]
    device: str
    seed: int
    portability: dict[str, Any] = field(default_factory=dict)
    portability_notes: tuple[str, ...] = ()
    source_notes: tuple[str, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of what came in, the judgement, other calls and machines."""
        alone = [
            f"For calls of {batch} alone, {found.name} is {found.gain:.2f} × as fast on "
            f"{found.target.runtime}: {for_batch(batch)}."
            for batch, found in self.choice.alone.items()
        ]
        return [*self.source_notes, *self.judge.notes, *alone, *self.portability_notes]

    def arms(self, made: Path, name: str) -> dict[str, Target]:
        """The model that came in, and the one that was made, also on the runtime it is for."""
        found = {self.parent.card.name: Target(self.parent.onnx)}
        if self.choice.name is None:
            return found
        name = name if name not in found else f"{name}-int8"
        found[name] = Target(made)
        if self.choice.target.runtime != "onnxruntime":
            found[f"{name}@{self.choice.target.runtime}"] = Target(made, self.choice.target.runtime)
        return found

    def settings(self) -> dict[str, Any]:
        """What the result follows from, beside the model."""
        return {
            "quantize": self.config.model_dump(mode="json"),
            "budget": self.budget.model_dump(mode="json"),
            "data": self.judge.data,
            "metric": self.judge.metric,
            "benchmark": self.bench.model_dump(mode="json"),
            "seed": self.seed,
        }

    def card(self, scratch: Path, name: str, quality: dict[str, Quality], seconds: float) -> Card:
        """How the model came about, and what it is for: runtime, threads and shapes."""
        account = [entry.model_dump(exclude={"stage"}) for entry in self.choice.account]
        sizes = [size_bytes(self.parent.onnx), size_bytes(scratch / ONNX)]
        model = load_graph(scratch / ONNX)
        evidence = {
            "candidates": account,
            "chosen": self.choice.name or best.INPUT,
            "calibration": self.calibration,
            "rewrites": [asdict(entry) for entry in self.rewrites],
            "operators": operators(model),
            "nodes": account_of_nodes(model),
            "size_bytes": sizes,
            "made_for": self.made_for(scratch / ONNX),
            "for_one_batch_size": self.for_one_batch_size(),
            "interrupted": self.choice.interrupted,
            "portability": self.portability,
            "notes": self.notes,
        }
        known = self.parent.card.evidence
        for key in known.keys() & {"parameters", "macs"}:
            evidence[key] = [known[key][-1]] * 2
        task = self.judge.task if isinstance(self.judge, TaskJudge) else None
        if task is not None:
            evidence["preprocessing"] = task.preprocessing
        return Card(
            kind="quantize",
            name=name,
            task=task.name if task else None,
            key=digest([self.parent.identity, self.settings(), self.device, compress.__version__]),
            parents={"from": self.parent.identity},
            config=self.config.model_dump(mode="json"),
            seed=self.seed,
            versions={"compress-kit": compress.__version__, **versions()},
            metrics={part: found.model_dump(mode="json") for part, found in quality.items()},
            evidence=evidence,
            seconds=round(seconds, 2),
        )

    def for_one_batch_size(self) -> dict[str, Any]:
        """What is faster than the choice where all calls have the same size."""
        return {
            str(batch): {
                "file": for_batch(batch),
                "chosen": alone.name,
                "runtime": alone.target.runtime,
                "threads": alone.threads,
                "times_as_fast": alone.gain,
                "drop": alone.drop,
            }
            for batch, alone in self.choice.alone.items()
        }

    def made_for(self, path: Path) -> dict[str, Any]:
        """What the choice was timed on, and so holds for."""
        names = [entry.name for entry in Session(path, self.device).inputs]
        shapes = {
            str(size): {
                name: list(feed.shape)
                for name, feed in zip(names, self.judge.batch(size), strict=True)
            }
            for size in self.bench.batch
        }
        return {
            "runtime": self.choice.target.runtime,
            "device": self.device,
            "threads_by_batch": {str(size): n for size, n in self.choice.threads.items()},
            "shapes_by_batch": shapes,
            "instruction_sets": machine().get("instruction_sets"),
        }

    def report(
        self,
        targets: dict[str, Target],
        qualities: dict[str, dict[str, Quality]],
        scores: dict[str, Scores],
        command: str,
        progress: Progress,
    ) -> Report:
        """The model that came in and the one that was chosen, side by side."""
        before, after = next(iter(targets)), list(targets)[-1]
        memory = measure_memory(targets, self.bench, inputs=self.judge.batch, device=self.device)
        free = available() if self.device == "cpu" else None
        bench, note = that_fits(self.bench, memory, free)
        measured = measure(
            targets,
            bench,
            inputs=self.judge.batch,
            device=self.device,
            seed=self.seed,
            progress=progress,
            label="benchmark",
        )
        arms = [
            self._arm(name, target, qualities[name], measured, memory[name])
            for name, target in targets.items()
        ]
        arms[1:] = [arm.model_copy(update={"parent": before, "file": ONNX}) for arm in arms[1:]]
        better = self.judge.higher_is_better
        limit = self.budget.limit(float(scores[before]["test"].mean()))
        report = Report(
            **origin(command, f"{self.parent.card.name}, quantized", self.settings()),
            baseline=before,
            final=after,
            arms=arms,
            comparisons=[
                entry
                for arm in arms[1:]
                for entry in compare(
                    arms[0], arm, measured, scores, higher_is_better=better, max_drop=limit
                )
            ],
            candidates=self.choice.account,
            measurement=measurement(bench, measured, self.device),
            notes=[*self.notes, *filter(None, [note])],
            raw=measured.raw(),
        )
        samples = {name: found["test"] for name, found in scores.items()}
        verdict = judge_budget(report, samples, self.judge.metric, better, self.budget)
        return report.model_copy(update={"budget": verdict})

    def _arm(
        self,
        name: str,
        target: Target,
        quality: dict[str, Quality],
        measured: Measured,
        memory: int | None,
    ) -> Arm:
        artifact = self.parent if target.path == self.parent.onnx else wrap_onnx(target.path)
        facts = arm_facts(artifact, target)
        known = self.parent.card.evidence
        return Arm(
            name=name,
            device=self.device,
            quality=quality["test"],
            validation=quality["validation"],
            latency=measured.latency(name),
            peak_memory_bytes=memory,
            **facts | {key: known.get(key, [None])[-1] for key in ("parameters", "macs")},
        )
