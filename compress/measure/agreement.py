"""Judging any ONNX model on inputs without labels: by how far it agrees with the fp32 model."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from compress.data.samples import Array, Samples
from compress.errors import ModelFileError, first_line
from compress.measure.judge import Floats, Part, quality_of
from compress.measure.own_data import CHUNK, OwnData
from compress.report.schema import Quality
from compress.runtime.interface import Model
from compress.runtime.onnxruntime import Session

#: How outputs are compared: see `Agreement`.
Rule = Literal["auto", "top-1", "error"]

#: Of scores: samples, steps, classes. Maps over images have more, and classes in another place.
_MOST_AXES = 3
#: Operators that a layer of scores ends in; what ends in a normalization is no score.
_SCORES = {"Softmax", "LogSoftmax", "Sigmoid", "Gemm", "MatMul", "Conv"}
#: Between those and the output.
_PASSED = {"Add", "Reshape", "Squeeze", "Flatten", "Cast", "Identity", "Unsqueeze", "Transpose"}
#: A row of unit length is an embedding, whatever made it.
_UNIT = 1e-3
#: Of an output beside the scores, what int8 may make of it and the sample still be right.
_OTHERS = 0.1
_BESIDE = (
    f"Outputs that do not look like scores may be {_OTHERS:.0%} off (relative error, of whole "
    "numbers the share that differs): where one is further off, the sample counts as wrong."
)
_OTHER_SIZE = (
    "Some candidates answer samples with another number of values than the fp32 model, as "
    "detectors do: that counts as wrong. --metric can say what is right of such outputs."
)
_STILL = (
    "The fp32 model gives the same for all samples: {}. No layer has a say there on this data, so "
    "that int8 seems to lose nothing by it, and may on other data, or in a trained model."
)
_SCORED = "its first output looks like scores"
_NOT_SCORED = "its first output does not look like scores"
_ONE_CLASS = "its first output has the largest score in the same place for all samples"


class Agreement(OwnData):
    """How far a model's outputs are from those of the fp32 model; no labels are needed.

    "top-1": the share of places at which the largest score is the same one, of the first output
        and of others that look like scores; a sample counts as wrong where any output that does not
        is further off than `_OTHERS`.
    "error": ‖y − y₀‖ / ‖y₀‖ of each sample, of whole numbers the share that differs; of several
        outputs the largest.
    """

    def __init__(
        self, samples: Samples, reference: Path, rule: Rule = "auto", *, seed: int = 0
    ) -> None:
        """Answer all samples with the fp32 model, once.

        Raises:
            ModelFileError: the model fails on its samples, or its answers are no numbers.
        """
        super().__init__(samples, seed)
        session = Session(reference)
        held: tuple[Part, ...] = ("validation", "test")
        self._expected = {part: self._answer(session, part) for part in held}
        for part in held:
            _check_finite(self._expected[part], reference)
        every = [answer for part in held for answer in self._expected[part]]
        self.rule, reason = _rule(reference, every) if rule == "auto" else (rule, "")
        found = self.rule
        self.metric = "top-1 agreement" if found == "top-1" else "relative error"
        self.higher_is_better = self.outputs_are_scores = found == "top-1"
        why = f", as {reason}; --agreement takes another" if reason else ""
        self.notes.append(
            f"No labels were given: {self.metric} with the fp32 model's own outputs is what was "
            f"judged{why}. It says what quantization changed, not how right the model is."
        )
        graph = onnx.load(reference, load_external_data=False).graph
        names = [made.name for made in graph.output]
        if still := [name for at, name in enumerate(names) if _never_changes(every, at)]:
            self.notes.append(_STILL.format(", ".join(map(repr, still))))
        self._scored = [0]
        if found == "top-1":
            rest = range(1, len(every[0]))
            self._scored += [at for at in rest if _are_scores(graph, every, at)]
            if len(self._scored) <= len(rest):
                self.notes.append(_BESIDE)

    def _answer(self, model: Model, part: Part) -> list[list[Array]]:
        """For each sample its outputs, each (1, …) where the sample is a row."""
        samples = self.parts[part]
        answers: list[list[Array]] = [[] for _ in range(len(samples))]
        for places in samples.chunks(CHUNK):
            try:
                outputs = model.outputs_of(samples.take(places))
            except Exception as error:  # onnxruntime's own classes share no public base
                raise ModelFileError(
                    f"{self.data}: the model fails on it: {first_line(error)}"
                ) from error
            for row, place in enumerate(places):
                answers[place] = [_row(value, row, len(places)) for value in outputs]
        return answers

    def scores(self, model: Model, part: Part) -> Floats:
        """One score a sample; what is no number counts as wrong."""
        score = partial(_same_top, self._scored) if self.rule == "top-1" else _error
        pairs = list(zip(self._expected[part], self._answer(model, part), strict=True))
        if _OTHER_SIZE not in self.notes and any(_sizes(one) != _sizes(two) for one, two in pairs):
            self.notes.append(_OTHER_SIZE)
        return np.array([score(expected, found) for expected, found in pairs])

    def judged(self, model: Model, part: Part) -> tuple[Quality, Floats]:
        scores = self.scores(model, part)
        found = quality_of(self, scores)
        none = not self.outputs_are_scores and not scores.any()  # of no error there is no interval
        if found.interval is None or none:
            return found.model_copy(update={"interval": None}), scores
        # Student's t knows no bounds: no error is negative, and no share is over one.
        low, high = np.clip(found.interval, 0, 1 if self.outputs_are_scores else None).tolist()
        return found.model_copy(update={"interval": (low, high)}), scores


def _row(value: Array, row: int, rows: int) -> Array:
    """One sample's part of an output; the whole where the output has no row for each."""
    return value[row : row + 1] if value.ndim and value.shape[0] == rows and rows > 1 else value


def _check_finite(answers: list[list[Array]], reference: Path) -> None:
    for answer in answers:
        floats = [value for value in answer if value.dtype.kind == "f"]
        if not floats:
            raise ModelFileError(f"{reference}: gives no floating-point output to be compared.")
        if not all(np.isfinite(value).all() for value in floats):
            raise ModelFileError(
                f"{reference}: answers the samples with NaN or infinity; there is nothing to keep."
            )


def _rule(reference: Path, answers: list[list[Array]]) -> tuple[Literal["top-1", "error"], str]:
    """How to compare, by whether the first output is scores; and why."""
    graph = onnx.load(reference, load_external_data=False).graph
    if not _are_scores(graph, answers, 0):
        return "error", _NOT_SCORED
    tops = [answer[0].argmax(axis=-1).ravel() for answer in answers if answer[0].size]
    if len(np.unique(np.concatenate(tops))) < 2:  # what always agrees tells nothing
        return "error", _ONE_CLASS
    return "top-1", _SCORED


def _are_scores(graph: onnx.GraphProto, answers: list[list[Array]], at: int) -> bool:
    """Whether an output is scores, by the operators that made it and by its values."""
    first = answers[0][at]
    if not 2 <= first.ndim <= _MOST_AXES or first.shape[-1] < 2 or first.dtype.kind != "f":
        return False
    norms = [np.linalg.norm(one[at], axis=-1).ravel() for one in answers if one[at].size]
    if not norms or np.abs(np.concatenate(norms) - 1).max() < _UNIT:
        return False
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by.get(graph.output[at].name)
    while node is not None and node.op_type in _PASSED:
        node = next((made_by[name] for name in node.input if name in made_by), None)
    return node is not None and node.op_type in _SCORES


def _never_changes(answers: list[list[Array]], at: int) -> bool:
    """Whether an output of floating-point numbers is the same for all samples."""
    first, *others = [answer[at] for answer in answers]
    same = all(np.array_equal(first, other) for other in others)
    return bool(others) and first.dtype.kind == "f" and first.size > 0 and same


def _sizes(answer: list[Array]) -> list[tuple[int, ...]]:
    return [value.shape for value in answer]


def _same_top(scored: list[int], expected: list[Array], found: list[Array]) -> float:
    same = list[Array]()
    for at, (before, after) in enumerate(zip(expected, found, strict=True)):
        if at not in scored:
            if not _off(before, after) <= _OTHERS:
                return 0.0
        elif before.shape != after.shape or not np.isfinite(after).all():
            return 0.0
        else:
            same.append((before.argmax(axis=-1) == after.argmax(axis=-1)).ravel())
    places = np.concatenate(same)
    return float(places.mean()) if places.size else 1.0  # nothing was found, by both of them


def _error(expected: list[Array], found: list[Array]) -> float:
    worst = max(_off(before, after) for before, after in zip(expected, found, strict=True))
    return worst if np.isfinite(worst) else 1.0


def _off(before: Array, after: Array) -> float:
    """How far an output is from the fp32 model's: the relative error of floating-point numbers,
    of others the share that differs; infinite where it is no number, or of another size.
    """
    if before.shape != after.shape:
        return math.inf
    if not before.size:
        return 0.0
    if before.dtype.kind != "f":
        return float((before != after).mean())
    wanted = before.astype(np.float64)
    away, size = float(np.linalg.norm(after - wanted)), float(np.linalg.norm(wanted))
    if not np.isfinite(away):
        return math.inf
    return away / size if size else float(away > 0)
