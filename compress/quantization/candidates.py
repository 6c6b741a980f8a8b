"""Which quantized models are worth building for a graph: what its operators can gain from.

Each technique is built where it has something to do, and left out where it is known to change
nothing: static int8 leaves an LSTM as it is; onnxruntime has an int8 kernel for LSTM, none for GRU.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from compress.errors import CompressError
from compress.measure.machine import machine
from compress.quantization.by_step import is_wide
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.fp16 import convert_fp16
from compress.quantization.fusion import fuse
from compress.quantization.magnified_inputs import magnify_inputs
from compress.quantization.nbits import quantize_4bit
from compress.quantization.prepared import LAYERS, Maker, Prepared
from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.depthwise import as_convolutions
from compress.quantization.saturation import saturates
from compress.quantization.slower_layers import slower_layers
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_weights

#: Why int8 is left out by "best" on a GPU.
NO_INT8 = (
    "left out: on CUDA onnxruntime has no int8 kernels for convolutions, which would run as fp32 "
    "with conversions around; fp16 takes their place"
)

#: Static int8 of the layers that gain from it by measurement.
SLOWER = "static, slower layers fp32"
#: Behind the name of what OpenVINO is faster with, and onnxruntime computes in fp32.
FP32_SUMS = ", fp32 sums"
_NOT_SLOWER = "no layer is slower in int8 than in fp32"
_ALL_SLOWER = "every layer is slower in int8 than in fp32"
_STEPPED = {"GRU", "RNN"}


class Candidates:
    """Makers of all models that start from one file."""

    def __init__(self, prepared: Prepared, minimise: str = "latency", device: str = "cpu") -> None:
        """Nothing is built yet, and `fused` is None until `makers` has found it.

        Args:
            prepared: what they start from; `method` of its configuration says which are wanted.
            minimise: "latency" or "size"; 4 bits are for the latter.
            device: "cuda" is for fp16, see `NO_INT8`.
        """
        self._prepared, self._method = prepared, prepared.config.method
        self._minimise = minimise
        self.int8 = self._method != "fp16" and not (device == "cuda" and self._method == "best")
        self.fused: Path | None = None

    def makers(self) -> dict[str, Maker]:
        """Name to maker of every model that the configuration asks for."""
        if not self.int8:
            return self._fp16_makers()
        source, found = self._prepared.file, dict[str, Maker]()
        if self._method == "static":
            found["static"] = self._prepared.static
        if self._method == "best" and self._prepared.can_be_static:
            found |= self._static_makers()
        if self._method in ("best", "dynamic"):
            found["dynamic"] = partial(self._prepared.dynamic, source)
        if self._method == "best":
            found |= self._makers_by_operator()
        if self._method in ("best", "weight-only"):
            found["weight-only"] = partial(quantize_weights, source)
        return found

    def _static_makers(self) -> dict[str, Maker]:
        prepared = self._prepared
        found: dict[str, Maker] = {"static": prepared.static}
        if prepared.symmetric is not None:
            found["static, symmetric"] = partial(prepared.static, config=prepared.symmetric)
        sums_apart = prepared.has_pieces and prepared.on_openvino
        if prepared.calls is not None and self._minimise == "latency":
            found[SLOWER] = self._faster_layers
            if sums_apart:
                found[f"{SLOWER}{FP32_SUMS}"] = self._faster_layers_with_fp32_sums
        if prepared.has_pieces:
            found["static, layers alone"] = partial(prepared.static, kinds=LAYERS)
        if sums_apart:
            found[f"static, layers alone{FP32_SUMS}"] = partial(
                prepared.static, kinds=LAYERS, fp32_sums=True
            )
        if prepared.convolutions:
            spread = prepared.folder / "depthwise.onnx"
            if write_changed(prepared.file, spread, prepared.samples[0], as_convolutions):
                found["static, normalizations as convolutions"] = partial(
                    prepared.static, source=spread
                )
        facts = machine()
        if saturates(facts["architecture"], facts["instruction_sets"]):
            seven = prepared.config.model_copy(update={"reduce_range": True})
            found["static, weights of 7 bits"] = partial(prepared.static, config=seven)
        return found

    def _makers_by_operator(self) -> dict[str, Maker]:
        prepared, found = self._prepared, dict[str, Maker]()
        kinds = [node.op_type for node in prepared.nodes]
        stepped = any(node.op_type in _STEPPED and is_wide(node) for node in prepared.nodes)
        recurrent = "LSTM" in kinds or stepped
        if prepared.convolutions and (recurrent or prepared.many_products):
            found["static convolutions, the rest dynamic"] = self._both
        if fused := self._fuse():
            found["static, fused"] = partial(prepared.static, source=fused)
            found["dynamic, fused"] = partial(prepared.dynamic, fused)
        if "LSTM" in kinds:
            found["dynamic, one scale a matrix"] = partial(
                quantize_dynamic_int8, prepared.file, per_channel=False
            )
        if prepared.recurrent:
            magnified = prepared.folder / "magnified.onnx"
            inputs = prepared.calibration.passed(prepared.file, kinds=("LSTM",))
            if magnify_inputs(prepared.file, magnified, inputs):
                # Its weights are made for a scale for each row.
                found["dynamic, LSTM inputs magnified"] = partial(quantize_dynamic_int8, magnified)
        if kinds.count("LSTM") > 1:
            # The first one reads raw features, whose smallest values one range for all rounds away.
            first = next(node.name for node in prepared.nodes if node.op_type == "LSTM")
            found["dynamic, first LSTM fp32"] = partial(
                quantize_dynamic_int8, prepared.file, keep_fp32=(first,)
            )
        if stepped:
            found["dynamic, step by step"] = partial(
                quantize_dynamic_int8, prepared.file, by_step=True
            )
        if prepared.many_products and self._minimise == "size":
            found["4 bits in blocks"] = partial(quantize_4bit, prepared.file)
        return found

    def _fp16_makers(self) -> dict[str, Maker]:
        sources = {"fp16": self._prepared.file, "fp16, fused": self._fuse()}
        return {
            name: partial(convert_fp16, source, samples=self._prepared.samples)
            for name, source in sources.items()
            if source is not None
        }

    def _fuse(self) -> Path | None:
        """The file with attention as one operator; None where there is none."""
        prepared, fused = self._prepared, self._prepared.folder / "fused.onnx"
        if prepared.many_products and fuse(prepared.file, fused, prepared.samples[0]):
            self.fused = fused
        return self.fused

    def _faster_layers(self, path: Path) -> None:
        """Static int8 of the layers that are faster so, and of nothing between them."""
        prepared = self._prepared
        every, kinds = prepared.folder / "every-layer.onnx", LAYERS if prepared.has_pieces else ()
        prepared.static(every, kinds=kinds, tables=False)
        names = [node.name for node in prepared.nodes if node.op_type in LAYERS]
        batch, inputs = prepared.calls or (1, None)
        prepared.slower = slower_layers(
            *(prepared.file, every, names), batch=batch, inputs=inputs, progress=prepared.progress
        )
        if not prepared.slower:
            raise CompressError(_NOT_SLOWER)
        if prepared.slower.issuperset(names):
            raise CompressError(_ALL_SLOWER)
        prepared.static(path, prepared.slower, kinds=kinds)

    def _faster_layers_with_fp32_sums(self, path: Path) -> None:
        """The same layers: it is small ones that are slower on OpenVINO as well."""
        if not self._prepared.slower:
            raise CompressError(_NOT_SLOWER)
        self._prepared.static(path, self._prepared.slower, kinds=LAYERS, fp32_sums=True)

    def _both(self, path: Path) -> None:
        """Convolutions by calibration, then recurrent layers and products by each call's range."""
        prepared = self._prepared
        half = prepared.folder / "static-convolutions.onnx"
        ranges = prepared.calibration.ranges(prepared.file)
        quantize_static_int8(prepared.file, half, ranges, prepared.config, kinds=("Conv",))
        stepped = any(node.op_type in _STEPPED for node in prepared.nodes)
        quantize_dynamic_int8(half, path, by_step=stepped)
