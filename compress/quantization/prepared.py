"""A model that is ready to be quantized: its graph, its calibration, and how its files are written.

What all candidates start from. Which of them are worth building is for
`compress.quantization.candidates` and `compress.quantization.variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from compress.export.bodies import nodes_everywhere
from compress.export.loading import load_graph
from compress.measure.latency import Batches
from compress.progress import Progress, quiet
from compress.quantization.calibration.observed import STATIC_KINDS
from compress.quantization.calibration.shared import Calibration
from compress.quantization.calibration.stored import Store
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.static import quantize_static_int8
from compress.quantization.weight_only import quantize_tables, quantize_transposed
from compress.runtime.onnxruntime import Feeds

#: Writes one model to a path.
Maker = Callable[[Path], object]

PRODUCTS = ("MatMul", "Gemm")
LAYERS = ("Conv", *PRODUCTS)
#: What stands between convolutions and loses next to nothing in int8. Other pieces, such as those
#: of an activation or a normalization, may need more than 8 bits.
_HARMLESS = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"}
    | {"LeakyRelu", "MatMul", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
#: It has no int8 ConvTranspose: between conversions it would make fp32 of the weights in each call.
_ON_ONNXRUNTIME = tuple(sorted(STATIC_KINDS - {"ConvTranspose"}))
#: Graphs with fewer products have no attention to fuse, and nothing that blocks could help.
_MANY = 4


class Prepared:
    """An ONNX file in fp32, rewritten for quantization, and what is known of it.

    Attributes:
        file: where it stands.
        folder: for files that candidates start from.
        samples: calibration batches.
        config: what was asked for.
        calibration: of this file, shared by all that is made of it.
        nodes: of the graph and of the bodies of its If, Loop and Scan.
        calls: batch size and calls that times are taken with; None where none are.
        on_openvino: whether OpenVINO will be tried, too.
        slower: layers that are slower in int8, as far as that has been measured.
    """

    def __init__(
        self,
        file: Path,
        folder: Path,
        samples: list[Feeds],
        config: QuantizeConfig,
        progress: Progress = quiet,
        store: Store | None = None,
        runtimes: Collection[str] = (),
        calls: tuple[int, Batches] | None = None,
    ) -> None:
        """Look at a graph; nothing is calibrated yet.

        Args:
            store: of calibration passes that need not be repeated.
            runtimes: that will be tried beside onnxruntime.
        """
        self.file, self.folder, self.samples, self.config = file, folder, samples, config
        self.progress, self.calls = progress, calls
        self.on_openvino = any(runtime.startswith("openvino") for runtime in runtimes)
        self.slower: frozenset[str] = frozenset()
        model = load_graph(file)
        self.nodes = nodes_everywhere(model.graph)
        self._kinds = [node.op_type for node in self.nodes]
        self._outside = {node.op_type for node in model.graph.node}
        self.calibration = Calibration(samples, config, progress=progress, store=store)

    @property
    def symmetric(self) -> QuantizeConfig | None:
        """Values around zero, which OpenVINO multiplies faster; None where it will not be tried."""
        if self.on_openvino and self.config.weights == "int8" and not self.config.symmetric:
            return self.config.model_copy(update={"symmetric": True})
        return None

    @property
    def convolutions(self) -> bool:
        """Whether the graph has any."""
        return "Conv" in self._kinds

    @property
    def many_products(self) -> bool:
        """Whether the graph has as many products as one with attention."""
        return sum(self._kinds.count(kind) for kind in PRODUCTS) >= _MANY

    @property
    def recurrent(self) -> bool:
        """Whether the graph itself, outside of any body, has an LSTM."""
        return "LSTM" in self._outside

    @property
    def can_be_static(self) -> bool:
        """Whether the graph has what static int8 makes faster."""
        return self.convolutions or self.many_products

    @property
    def has_pieces(self) -> bool:
        """Whether static int8 would also take operators that may need more than 8 bits."""
        return self.convolutions and bool(set(self._kinds) & STATIC_KINDS - _HARMLESS)

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
            source: a file that computes the same as this one, instead of it.
            config: of the integers, or of how ranges are found, instead of the model's own.
            kinds: operators to quantize; all that convolutions have between them where left out,
                and without convolutions products alone.
            tables: whether embeddings become int8 as well, and the weights of layers that
                onnxruntime only stores so.
            fp32_sums: see `quantize_static_int8`.
        """
        source, config = source or self.file, config or self.config
        quantize_static_int8(
            source,
            path,
            self.calibration.ranges(source, self.file, config),
            config,
            tuple(keep_fp32),
            kinds or self._taken,
            fp32_sums=fp32_sums,
        )
        if tables:
            quantize_tables(path)
            if not kinds and not self.on_openvino:
                quantize_transposed(path, self.config.keep_fp32)

    def static_alone(
        self,
        source: Path,
        path: Path,
        keep_fp32: Collection[str] = (),
        config: QuantizeConfig | None = None,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """`static` of a file whose activations are others than this one's."""
        config = config or self.config
        found = self.calibration.passed(source)
        ranges = found.ranges(config.calibration, percentile=config.percentile)
        quantize_static_int8(source, path, ranges, config, tuple(keep_fp32), kinds or self._taken)

    def dynamic(self, source: Path, path: Path) -> None:
        """Dynamic int8 of a file."""
        quantize_dynamic_int8(source, path, per_channel=self.config.per_channel)

    @property
    def _taken(self) -> tuple[str, ...]:
        """Operators of static int8: pieces between products lose accuracy, and convert slowly."""
        if not self.convolutions:
            return PRODUCTS
        return () if self.on_openvino else _ON_ONNXRUNTIME
