"""The peers: each writes its quantized file the way that its own documentation begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.inputs import Rows
from benchmarks.peers.subject import Subject
from compress.quantization.scratch import inside_scratch_folder

BASELINE = "onnxruntime fp32"
DEFAULT = "ORT static, default"
#: What onnxruntime's own tools give; the others need another tool or runtime.
OWN_TOOLS = (BASELINE, DEFAULT, "ORT static, U8S8 per channel", "ORT dynamic")


@dataclass(frozen=True)
class Peer:
    """How a peer makes its file, and what runs it.

    Attributes:
        make: writes the file; None where the fp32 file itself is run.
        runtime: a key of `compress.runtime.interface.RUNTIMES`.
        suffix: of the file.
        like: another peer whose file it is, run in another way.
    """

    make: Callable[[Subject, Path], None] | None
    runtime: str = "onnxruntime"
    suffix: str = ".onnx"
    like: str | None = None


def build(name: str, subject: Subject) -> Path:
    """The file that a peer runs, from the cache if it is there.

    Raises:
        Exception: whatever the peer's tool raises.
    """
    peer = PEERS[name]
    if peer.like is not None:
        return build(peer.like, subject)
    if peer.make is None:
        return subject.onnx
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    path = (subject.folder / slug).with_suffix(peer.suffix)
    if not path.exists():
        with inside_scratch_folder() as scratch:
            made = scratch / path.name
            peer.make(subject, made)
            for file in scratch.glob(f"{path.stem}.*"):  # OpenVINO writes two
                path.with_name(file.name).write_bytes(file.read_bytes())
    return path


def size(path: Path) -> int:
    """Bytes of a model, its weights beside it included."""
    weights = path.with_suffix(".bin")
    more = weights.stat().st_size if path.suffix == ".xml" else 0
    return path.stat().st_size + more


class _Reader:
    """What onnxruntime's calibration asks for: one call's rows after another, then None."""

    def __init__(self, chunks: list[Rows]) -> None:
        self._chunks = iter(chunks)

    def get_next(self) -> Rows | None:
        return next(self._chunks, None)


def _ort_default(subject: Subject, path: Path) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(str(subject.onnx), str(path), _Reader(subject.chunks("train")))


def _ort_u8s8(subject: Subject, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    try:
        quant_pre_process(str(subject.onnx), str(prepared))
    except Exception:  # "incomplete symbolic shape inference": its own advice is to go without
        quant_pre_process(str(subject.onnx), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(path),
        _Reader(subject.chunks("train")),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def _ort_dynamic(subject: Subject, path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(subject.onnx), str(path))


def _nncf_onnx(subject: Subject, path: Path) -> None:
    import nncf
    import onnx

    with _quiet():
        data = nncf.Dataset(subject.chunks("train"))
        onnx.save(nncf.quantize(onnx.load(subject.onnx), data, **_nncf_options(subject)), path)


def _nncf_openvino(subject: Subject, path: Path) -> None:
    import nncf
    import openvino

    with _quiet():
        model = openvino.Core().read_model(subject.onnx)
        data = nncf.Dataset(subject.chunks("train"), lambda rows: list(rows.values()))
        quantized = nncf.quantize(model, data, **_nncf_options(subject))
        openvino.save_model(quantized, path, compress_to_fp16=False)


def _nncf_options(subject: Subject) -> dict[str, Any]:
    import nncf

    calls = len(subject.chunks("train"))
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if subject.attention else {}
    return {"subset_size": calls} | kind


@contextmanager
def _quiet() -> Iterator[None]:
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    yield


PEERS = {
    BASELINE: Peer(None),
    DEFAULT: Peer(_ort_default),
    "ORT static, U8S8 per channel": Peer(_ort_u8s8),
    "ORT dynamic": Peer(_ort_dynamic),
    "NNCF on onnxruntime": Peer(_nncf_onnx),
    "NNCF on OpenVINO": Peer(_nncf_openvino, "openvino", ".xml"),
    # What OpenVINO does by itself on a processor with AMX: bf16 for what is not int8.
    "NNCF on OpenVINO, bf16 beside": Peer(None, "openvino-bf16", like="NNCF on OpenVINO"),
    "OpenVINO bf16": Peer(None, "openvino-bf16"),
    "OpenVINO fp32": Peer(None, "openvino"),
}
