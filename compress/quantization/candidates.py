"""Which quantized models are worth building for a graph: what its operators can gain from.

Each technique is built where it has something to do, and left out where it is known to change
nothing: static int8 leaves an LSTM as it is; onnxruntime has an int8 kernel for LSTM, none for GRU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from compress.errors import CompressError
from compress.export.bodies import graphs
from compress.export.graph import load_onnx
from compress.measure.latency import Batches
from compress.measure.machine import machine
from compress.progress import Progress, quiet
from compress.quantization.calibration.observed import STATIC_KINDS
from compress.quantization.calibration.shared import Calibration
from compress.quantization.calibration.stored import Store
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.fp16 import convert_fp16
from compress.quantization.fusion import fuse
from compress.quantization.magnified_inputs import magnify_inputs
from compress.quantization.nbits import quantize_4bit
from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.depthwise import as_convolutions
from compress.quantization.saturation import saturates
from compress.quantization.slower_layers import slower_layers
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_tables, quantize_weights
from compress.runtime.onnxruntime import Feeds

#: Writes one model to a path.
Maker = Callable[[Path], object]

#: Why int8 is left out by "best" on a GPU.
NO_INT8 = (
    "left out: on CUDA onnxruntime has no int8 kernels for convolutions, which would run as fp32 "
    "with conversions around; fp16 takes their place"
)

#: Static int8 of the layers that gain from it by measurement.
SLOWER = "static, slower layers fp32"
#: Behind the name of what OpenVINO is faster with and onnxruntime as a rule is not.
FOR_OPENVINO = ", for OpenVINO"
_NOT_SLOWER = "no layer is slower in int8 than in fp32"

PRODUCTS = ("MatMul", "Gemm")
LAYERS = ("Conv", *PRODUCTS)
_STEPPED = {"GRU", "RNN"}
#: What stands between convolutions and loses next to nothing in int8. Other pieces, such as those
#: of an activation or a normalization, may need more than 8 bits.
_HARMLESS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"}
    | {"LeakyRelu", "MatMul", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
#: Graphs with fewer products have no attention to fuse, and nothing that blocks could help.
_MANY = 4


class Candidates:
    """Makers of all models that start from one file, and the calibration that they share."""

    def __init__(
        self,
        prepared: Path,
        folder: Path,
        samples: list[Feeds],
        config: QuantizeConfig,
        minimise: str = "latency",
        progress: Progress = quiet,
        device: str = "cpu",
        store: Store | None = None,
        runtimes: Collection[str] = (),
        calls: tuple[int, Batches] | None = None,
    ) -> None:
        """Look at a graph; nothing is built yet, and `fused` is None until `makers` has found it.

        Args:
            prepared: ONNX file of the fp32 model, rewritten for quantization.
            folder: for files that candidates start from.
            samples: calibration batches.
            config: `method` says which candidates are wanted.
            minimise: "latency" or "size"; 4 bits are for the latter.
            device: "cuda" is for fp16, see `NO_INT8`.
            store: of calibration passes that need not be repeated.
            runtimes: that will be tried beside onnxruntime.
            calls: batch size and calls to find by which layers are slower in int8.
        """
        self.prepared, self.samples, self.config = prepared, samples, config
        self.folder, self._minimise = folder, minimise
        self._progress, self._calls = progress, calls
        #: Layers that are slower in int8, as far as that has been measured.
        self.slower: frozenset[str] = frozenset()
        self.symmetric = None
        self.on_openvino = any(runtime.startswith("openvino") for runtime in runtimes)
        if self.on_openvino and config.weights == "int8" and not config.symmetric:
            self.symmetric = config.model_copy(update={"symmetric": True})
        self.int8 = config.method != "fp16" and not (device == "cuda" and config.method == "best")
        model = load_onnx(prepared)
        self._nodes = list(model.graph.node)  # static int8 sees no bodies
        self._kinds = [node.op_type for node in self._nodes]
        self._everywhere = [node for graph in graphs(model.graph) for node in graph.node]
        self.many_products = sum(self._kinds.count(kind) for kind in PRODUCTS) >= _MANY
        self.calibration = Calibration(samples, config, progress=progress, store=store)
        self.fused: Path | None = None

    def makers(self) -> dict[str, Maker]:
        """Name to maker of every model that the configuration asks for."""
        if not self.int8:
            return self._fp16_makers()
        found: dict[str, Maker] = {}
        if self.config.method in ("best", "static"):
            found |= self._static_makers()
        if self.config.method in ("best", "dynamic"):
            found["dynamic"] = partial(self.dynamic, self.prepared)
        if self.config.method == "best":
            found |= self._makers_by_operator()
        if self.config.method in ("best", "weight-only"):
            found["weight-only"] = partial(quantize_weights, self.prepared)
        return found

    @property
    def convolutions(self) -> bool:
        """Whether the graph has any."""
        return "Conv" in self._kinds

    @property
    def can_be_static(self) -> bool:
        """Whether the graph has what static int8 makes faster."""
        return self.convolutions or self.many_products

    def static(
        self,
        path: Path,
        keep_fp32: Collection[str] = (),
        *,
        source: Path | None = None,
        config: QuantizeConfig | None = None,
        kinds: tuple[str, ...] = (),
        tables: bool = True,
        fp32_sums: bool = False,
    ) -> None:
        """Static int8 of the operators that gain from it, ranges found once for each file.

        Args:
            keep_fp32: names of nodes that stay as they are.
            source: a file that computes the same as the prepared one, instead of it.
            config: of the integers, or of how ranges are found, instead of the candidates' own.
            kinds: operators to quantize; all that convolutions have between them where left out,
                and without convolutions products alone.
            tables: whether embeddings become int8 as well.
            fp32_sums: see `quantize_static_int8`.
        """
        source, config = source or self.prepared, config or self.config
        quantize_static_int8(
            source,
            path,
            self.calibration.ranges(source, self.prepared, config),
            config,
            keep_fp32=tuple(keep_fp32),
            # The pieces between products lose accuracy in int8, and time to be converted.
            kinds=kinds or (() if self.convolutions else PRODUCTS),
            fp32_sums=fp32_sums,
        )
        if tables:
            quantize_tables(path)

    @property
    def has_pieces(self) -> bool:
        """Whether static int8 would also take operators that may need more than 8 bits."""
        return self.convolutions and bool(set(self._kinds) & STATIC_KINDS - _HARMLESS)

    def _static_makers(self) -> dict[str, Maker]:
        found: dict[str, Maker] = {}
        if self.config.method == "static" or self.can_be_static:
            found["static"] = self.static
        if self.config.method == "static":
            return found
        if found and self.symmetric is not None:
            found["static, symmetric"] = partial(self.static, config=self.symmetric)
        if found and self._calls is not None and self._minimise == "latency":
            found[SLOWER] = self._faster_layers
            if self.has_pieces and self.on_openvino:
                found[f"{SLOWER}{FOR_OPENVINO}"] = self._faster_layers_for_openvino
        if self.convolutions:
            if self.has_pieces:
                found["static, layers alone"] = partial(self.static, kinds=LAYERS)
                if self.on_openvino:
                    found[f"static, layers alone{FOR_OPENVINO}"] = partial(
                        self.static, kinds=LAYERS, fp32_sums=True
                    )
            spread = self.folder / "depthwise.onnx"
            if write_changed(self.prepared, spread, self.samples[0], as_convolutions):
                found["static, normalizations as convolutions"] = partial(
                    self.static, source=spread
                )
        facts = machine()
        if found and saturates(facts["architecture"], facts["instruction_sets"]):
            seven = self.config.model_copy(update={"reduce_range": True})
            found["static, weights of 7 bits"] = partial(self.static, config=seven)
        return found

    def _makers_by_operator(self) -> dict[str, Maker]:
        found: dict[str, Maker] = {}
        kinds = [node.op_type for node in self._everywhere]
        recurrent = bool({"LSTM", *_STEPPED} & set(kinds))
        if self.convolutions and (recurrent or self.many_products):
            found["static convolutions, the rest dynamic"] = self._both
        if fused := self._fuse():
            found["static, fused"] = partial(self.static, source=fused)
            found["dynamic, fused"] = partial(self.dynamic, fused)
        if "LSTM" in kinds:
            found["dynamic, one scale a matrix"] = partial(
                quantize_dynamic_int8, self.prepared, per_channel=False
            )
        if "LSTM" in self._kinds:
            magnified = self.folder / "magnified.onnx"
            inputs = self.calibration.passed(self.prepared, kinds=("LSTM",))
            if magnify_inputs(self.prepared, magnified, inputs):
                # Its weights are made for a scale for each row.
                found["dynamic, LSTM inputs magnified"] = partial(quantize_dynamic_int8, magnified)
        if kinds.count("LSTM") > 1:
            # The first one reads raw features, whose smallest values one range for all rounds away.
            first = next(node.name for node in self._everywhere if node.op_type == "LSTM")
            found["dynamic, first LSTM fp32"] = partial(
                quantize_dynamic_int8, self.prepared, keep_fp32=(first,)
            )
        if _STEPPED & set(kinds):
            found["dynamic, step by step"] = partial(
                quantize_dynamic_int8, self.prepared, by_step=True
            )
        if self.many_products and self._minimise == "size":
            found["4 bits in blocks"] = partial(quantize_4bit, self.prepared)
        return found

    def _fp16_makers(self) -> dict[str, Maker]:
        sources = {"fp16": self.prepared, "fp16, fused": self._fuse()}
        return {
            name: partial(convert_fp16, source, samples=self.samples)
            for name, source in sources.items()
            if source is not None
        }

    def _fuse(self) -> Path | None:
        """The file with attention as one operator; None where there is none."""
        fused = self.folder / "fused.onnx"
        if self.many_products and fuse(self.prepared, fused, self.samples[0]):
            self.fused = fused
        return self.fused

    def dynamic(self, source: Path, path: Path) -> None:
        quantize_dynamic_int8(source, path, per_channel=self.config.per_channel)

    def _faster_layers(self, path: Path) -> None:
        """Static int8 of the layers that are faster so, and of nothing between them."""
        every, kinds = self.folder / "every-layer.onnx", LAYERS if self.has_pieces else ()
        self.static(every, kinds=kinds, tables=False)
        names = [node.name for node in self._nodes if node.op_type in LAYERS]
        batch, inputs = self._calls or (1, None)
        self.slower = slower_layers(
            *(self.prepared, every, names), batch=batch, inputs=inputs, progress=self._progress
        )
        if not self.slower:
            raise CompressError(_NOT_SLOWER)
        self.static(path, self.slower, kinds=kinds)

    def _faster_layers_for_openvino(self, path: Path) -> None:
        """The same layers: it is small ones that are slower there as well."""
        if not self.slower:
            raise CompressError(_NOT_SLOWER)
        self.static(path, self.slower, kinds=LAYERS, fp32_sums=True)

    def _both(self, path: Path) -> None:
        """Convolutions by calibration, then LSTM and products by the range of each call."""
        half = self.folder / "static-convolutions.onnx"
        ranges = self.calibration.ranges(self.prepared)
        quantize_static_int8(self.prepared, half, ranges, self.config, kinds=("Conv",))
        quantize_dynamic_int8(half, path)

    def alone(
        self,
        source: Path,
        path: Path,
        keep_fp32: Collection[str] = (),
        config: QuantizeConfig | None = None,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """`static` of a file whose activations are others than the prepared one's."""
        config, kinds = config or self.config, kinds or (() if self.convolutions else PRODUCTS)
        found = self.calibration.passed(source)
        ranges = found.ranges(config.calibration, percentile=config.percentile)
        quantize_static_int8(source, path, ranges, config, tuple(keep_fp32), kinds)
