"""How right a quantized model is, by its runtime's own interface, none of `compress` between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks.peers.inputs import Rows
from benchmarks.peers.photos import average_precision
from benchmarks.peers.subject import Subject, load_subject

Array = npt.NDArray[Any]
DETECTIONS = "AP50 of fp32's detections"
#: One array for each input, by its name, to all outputs.
Run = Callable[[Rows], list[Array]]
#: Answers and truth of many rows to one number.
Quality = Callable[[Array, Array], float]


def opened(path: Path, runtime: str, threads: int = 2) -> Run:
    """A model as a function.

    Raises:
        Exception: whatever the runtime raises for a file that it cannot load.
    """
    if runtime == "onnxruntime":
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda rows: [np.asarray(output) for output in session.run(None, rows)]
    import openvino

    precision = {"openvino": "f32", "openvino-bf16": "bf16"}[runtime]
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def run(rows: Rows) -> list[Array]:
        # By place: NNCF's files on OpenVINO keep the order, not always the names.
        found = compiled(list(rows.values()))
        return [np.array(found[place]) for place in range(len(compiled.outputs))]

    return run


def answers(run: Run, subject: Subject, split: str) -> Array:
    """First outputs for all rows of a split, those of one call behind those of another.

    Raises:
        FloatingPointError: an answer is not a number.
    """
    found = np.concatenate([run(rows)[0] for rows in subject.chunks(split)])
    if not np.isfinite(found).all():
        raise FloatingPointError("answers with NaN or infinity")
    return found


def quality(run: Run, subject: Subject, split: str) -> float:
    """The subject's quality of a model on a split."""
    found = answers(run, subject, split)
    truth = subject.truth(split)
    # A last call of fewer rows was left out; labels are one a row.
    return QUALITIES[subject.quality][0](found, truth[: len(found)])


def lost(reference: float, found: float, subject: Subject) -> float:
    """What a model lost of the reference's quality, in the quality's unit; negative for a gain."""
    return reference - found if QUALITIES[subject.quality][1] else found - reference


def choosing_quality(run: Run, folder: str) -> float:
    """For `--metric`: the quality on the rows that a choice is made by."""
    return quality(run, load_subject(Path(folder)), "validation")


def accuracy(found: Array, labels: Array) -> float:
    """Share of rows whose largest output is the label's."""
    return float((found.argmax(axis=-1) == labels).mean())


def agreement(found: Array, reference: Array) -> float:
    """Share of all places where the largest output is the one that fp32 finds largest."""
    return float((found.argmax(axis=-1) == reference.argmax(axis=-1)).mean())


def near(found: Array, reference: Array) -> float:
    """Share of rows whose largest output is at most two places from fp32's: 40 cents of pitch."""
    return float((np.abs(found.argmax(axis=-1) - reference.argmax(axis=-1)) <= 2).mean())


def decision(found: Array, reference: Array) -> float:
    """Share of probabilities on fp32's side of one half."""
    return float(((found > 0.5) == (reference > 0.5)).mean())


def cosine(found: Array, reference: Array) -> float:
    """Mean cosine between vectors (the last axis) and those of fp32."""
    dot = (found * reference).sum(axis=-1)
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(reference, axis=-1)
    return float((dot / np.maximum(lengths, 1e-12)).mean())


def bits(found: Array, targets: Array) -> float:
    """Mean bits of each target under logits (n, steps, tokens)."""
    from compress.data.task import bits as score

    return float(score(found, targets).mean())


#: Name to the function, and whether higher is better.
QUALITIES: dict[str, tuple[Quality, bool]] = {
    "accuracy": (accuracy, True),
    "top-1 agreement with fp32": (agreement, True),
    "pitch within 40 cents of fp32's": (near, True),
    "decision as fp32's": (decision, True),
    "cosine with fp32": (cosine, True),
    "bits per character": (bits, False),
    DETECTIONS: (average_precision, True),
}
