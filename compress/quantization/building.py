"""From a model to all its candidates: rewritten without loss first, then quantized in every way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import CompressError, InputError, ModelFileError, first_line
from compress.export.graph import computing_nodes, shorten_names, strip
from compress.export.loading import load_graph, load_onnx
from compress.measure.judge import Judge
from compress.progress import Progress, quiet
from compress.quantization.calibration.stored import Store
from compress.quantization.candidates import NO_INT8, Candidates
from compress.quantization.config import QuantizeConfig
from compress.quantization.prepared import Maker, Prepared
from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.crashing import check_loads
from compress.quantization.rewriting.files import copy, save
from compress.quantization.rewriting.for_openvino import for_openvino
from compress.quantization.rewriting.simplify import Rewrite, simplify

#: The rewritten model as a candidate of its own, and with attention as one operator.
REWRITTEN, FUSED = "fp32, rewritten", "fp32, fused"
#: The same in the operators that OpenVINO is fast with.
FOR_OPENVINO = "fp32, for OpenVINO"
#: Steps of rewriting that make no model faster by themselves: as a rule onnxruntime takes them.
_NEUTRAL = {
    "functions inlined",
    "Constant nodes to initializers",
    "opset raised",
    "nodes that pass values on",
    "constant parts folded",
    "nodes named",
    "shapes inferred",
    "casts to what a value is",
    "plain Gemm",
    "values in bodies named",
    "GatherND of rows to Gather",
    "shapes of new values inferred",
}


@dataclass(frozen=True)
class Built:
    """All models that are worth measuring.

    Attributes:
        files: by name, what could be built and loads.
        failures: by name, why others could not be built.
        prepared: what more of them can be made from; None where there is nothing.
        rewrites: what was done to the model before it was quantized, see `simplify`.
    """

    files: dict[str, Path]
    failures: dict[str, str] = field(default_factory=dict)
    prepared: Prepared | None = None
    rewrites: list[Rewrite] = field(default_factory=list)

    def calibration(self) -> dict[str, Any]:
        """For a card: passes of calibration so far; empty where there was none."""
        return self.prepared.calibration.account() if self.prepared else {}


def build(
    source: Path,
    folder: Path,
    judge: Judge,
    config: QuantizeConfig,
    seed: int = 0,
    minimise: str = "latency",
    progress: Progress = quiet,
    device: str = "cpu",
    store: Store | None = None,
    runtimes: tuple[str, ...] = (),
    batch: int = 1,
) -> Built:
    """All models that the configuration asks for.

    Args:
        source: ONNX file of the fp32 model.
        folder: where the candidates are written.
        device: on "cuda", `best` is a choice between fp16 and fp32.
        store: of calibration passes that need not be repeated.
        runtimes: that will be tried beside onnxruntime.
        batch: samples of a call, to tell which layers are slower in int8.
    """
    rewritten = folder / "prepared.onnx"
    samples = judge.calibration(config.samples, seed)
    rewrites = simplify(source, rewritten, samples[0])
    calls = judge.sizes((batch,))[0], judge.batch
    prepared = Prepared(rewritten, folder, samples, config, progress, store, runtimes, calls)
    candidates = Candidates(prepared, minimise, device)
    files, failures = make_all(candidates.makers(), folder, half=not candidates.int8)
    if config.method == "best":
        failures |= {} if candidates.int8 else {"int8": NO_INT8}
        helped = any(entry.name not in _NEUTRAL and not entry.undone for entry in rewrites)
        sources = {REWRITTEN: rewritten if helped else None, FUSED: candidates.fused}
        openvino = folder / "openvino.onnx"
        change = (rewritten, openvino, samples[0], for_openvino)
        if prepared.on_openvino and write_changed(*change):
            sources[FOR_OPENVINO] = openvino
        for name, fp32 in sources.items():
            if fp32 is not None:
                files[name] = fp32.with_stem(f"{fp32.stem}-fp32")
                copy(fp32, files[name])
                finish(files[name])
    return Built(files, failures, prepared, rewrites)


def make_all(
    makers: Mapping[str, Maker], folder: Path, *, half: bool = False
) -> tuple[dict[str, Path], dict[str, str]]:
    """Name to file of what can be made and loads, and name to reason of what cannot.

    Args:
        half: whether operators are to become fp16 instead of int8.
    """
    files, failures = dict[str, Path](), dict[str, str]()
    for name, make in makers.items():
        path = folder / f"{name.replace(' ', '-')}.onnx"
        try:
            make(path)
            finish(path)
            _check_changed(path, "fp16" if half else "int8")
            files[name] = path
        except ModelFileError as error:
            failures[name] = f"does not load: {str(error).removeprefix(f'{path}: ')}"
        except InputError:
            raise
        except Exception as error:  # onnxruntime's quantizers raise whatever they meet
            failures[name] = f"could not be built: {first_line(error)}"
    return files, failures


def finish(path: Path) -> None:
    """Small names, a valid graph, and a file that loads."""
    save(shorten_names(strip(load_onnx(path))), path)
    check_loads(path)


def _check_changed(path: Path, wanted: str) -> None:
    """Refuse a file without one operator in int8, or 4 bits, or else in fp16, as is wanted."""
    entries = computing_nodes(load_graph(path))
    sign = "int" if wanted == "int8" else wanted
    if not any(sign in entry.precision for entry in entries):
        raise CompressError(f"no operator became {wanted}")
