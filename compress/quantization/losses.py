"""What models lose against the fp32 one on the validation split, each on its runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from compress.errors import first_line
from compress.measure.judge import Floats, Judge
from compress.measure.machine import machine
from compress.quantization.saturation import saturates
from compress.runtime.interface import Target, open_model
from compress.stats import paired_drop

#: What loses so many times the budget on one runtime is not within it on another: they round
#: alike, and each file takes a pass over the validation data on each of them.
_HOPELESS = 3


class Losses:
    """Of one reference, whose scores are computed once.

    Attributes:
        reference: (samples,), or one number where the metric is of the user's own.
    """

    def __init__(self, reference: Path, judge: Judge, device: str, threads: int) -> None:
        """Score the reference.

        Args:
            reference: ONNX file, run on onnxruntime.
            threads: for answers that are not timed.
        """
        self._judge, self._device, self._threads = judge, device, threads
        self.reference = self._scores(Target(reference))

    def of(self, target: Target) -> float:
        """The drop of the metric, or its rise where lower is better, in its unit."""
        scores = self._scores(target)
        return paired_drop(self.reference, scores, self._judge.higher_is_better)[0]

    def of_all(
        self,
        arms: Mapping[str, Target],
        max_drop: float,
        *,
        known: Mapping[str, float] | None = None,
        needed: Collection[str] = (),
    ) -> tuple[dict[str, float], dict[str, str]]:
        """What each arm loses; and why some could not be asked, or need not.

        Args:
            arms: files on onnxruntime before the same ones on other runtimes, where `, RUNTIME`
                stands behind the name.
            max_drop: what may be lost. A file that loses far more on onnxruntime is not tried
                elsewhere, but where 8-bit products are added in 16 bits: not every runtime does.
            known: what some of them are known to lose.
            needed: what fails among these is raised.
        """
        facts = machine()
        alike = not saturates(facts["architecture"], facts["instruction_sets"])
        limit = _HOPELESS * max_drop if alike and max_drop > 0 else math.inf
        drops, failed = dict(known or {}), dict[str, str]()
        for name, target in arms.items():
            here = drops.get(name.removesuffix(f", {target.runtime}"), 0.0)
            if name in drops:
                continue
            if here > limit:
                failed[name] = (
                    f"not tried: loses {here:.4f} on onnxruntime, over {_HOPELESS} times the budget"
                )
                continue
            try:
                drops[name] = self.of(target)
            except Exception as error:  # a candidate may fail as runtimes do
                if name in needed:
                    raise
                reason = first_line(error).replace(f"{target.path}: ", "")
                failed[name] = f"fails on the data: {reason}"
        return drops, failed

    def _scores(self, target: Target) -> Floats:
        model = open_model(target.runtime, target.path, self._device, self._threads)
        return self._judge.scores(model, "validation")
