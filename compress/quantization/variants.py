"""Int8 that loses less and is about as fast, for where plain static int8 loses too much."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from compress.errors import CompressError
from compress.quantization.bias_correction import correct_biases, corrected_inputs
from compress.quantization.candidates import SLOWER
from compress.quantization.config import QuantizeConfig
from compress.quantization.equalization import equalize
from compress.quantization.outliers import split_outliers
from compress.quantization.prepared import LAYERS, PRODUCTS, Maker, Prepared
from compress.quantization.rewriting.checked import write_changed
from compress.quantization.rewriting.convolution_products import as_products
from compress.quantization.rewriting.files import remove
from compress.quantization.row_ranges import normalize_rows
from compress.quantization.smoothquant import smooth
from compress.quantization.weight_only import quantize_tables

#: Its embeddings are fp32, as they may cost more accuracy than the products do.
BY_ROWS = "static, a range for each row"
_BY_ERROR = ", ranges of least error"


class Variants:
    """Makers of models that start from the same file as the candidates."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._config = prepared, prepared.config
        self._parts_by_error = prepared.has_pieces

    def makers(self) -> dict[str, Maker]:
        """Name to maker; none where static int8 has nothing to make faster."""
        known, found = self._prepared, dict[str, Maker]()
        if not known.can_be_static:
            return found
        if self._config.calibration != "mse":
            found[f"static{_BY_ERROR}"] = partial(known.static, config=self._by_error)
        if known.has_pieces:
            found[f"{self._alone}{_BY_ERROR}"] = partial(self.part_static, ())
        if known.convolutions:
            found["static, equalized, biases corrected"] = self._corrected
        if known.many_products:
            found["static, SmoothQuant"] = self._smooth
            if known.symmetric is not None:
                found["static, SmoothQuant, symmetric"] = partial(
                    self._smooth, config=known.symmetric
                )
            found["dynamic, SmoothQuant"] = self._smooth_dynamic
        found[BY_ROWS] = self._by_rows
        return found

    def choose_ranges(self, drops: Mapping[str, float]) -> None:
        """Let `part_static` find ranges the way that loses less with every layer in int8.

        Args:
            drops: name to what is lost, of candidates and of these variants.
        """
        lost = [drops.get(f"{self._alone}{way}", math.inf) for way in ("", _BY_ERROR)]
        self._parts_by_error = self._prepared.has_pieces and lost[1] <= lost[0]

    def part_static(
        self,
        keep_fp32: Collection[str],
        path: Path,
        *,
        symmetric: bool = False,
        fp32_sums: bool = False,
    ) -> None:
        """Static int8 of some layers, and of nothing else that may have cost the budget.

        Those that are slower in int8 stay fp32 as well. What pieces make between layers may have a
        few very large values: ranges of least error, if `choose_ranges` knows no better.
        """
        known, (config, kinds) = self._prepared, self._layers
        if symmetric:
            config = config.model_copy(update={"symmetric": True})
        known.static(
            path,
            {*keep_fp32, *known.slower},
            config=config,
            kinds=kinds,
            tables=False,
            fp32_sums=fp32_sums,
        )

    def outliers_apart(self, names: Collection[str], path: Path, *, dynamic: bool = False) -> None:
        """Int8 of all layers, of some with outliers apart, or in fp32 where they have none.

        Args:
            names: of those layers.
            dynamic: by the range of each call, which leaves layers without outliers in int8.

        Raises:
            CompressError: none of them has outliers.
        """
        known = self._prepared
        split = known.folder / "outliers-apart.onnx"
        statistics = known.calibration.statistics(known.file)
        apart = split_outliers(known.file, split, statistics, names)
        if not apart:
            raise CompressError("none of the layers that lose most is a product with outliers")
        if dynamic:
            known.dynamic(split, path)
        else:
            known.static_alone(
                split, path, (frozenset(names) | known.slower) - apart, *self._layers
            )

    @property
    def _by_error(self) -> QuantizeConfig:
        return self._config.model_copy(update={"calibration": "mse"})

    @property
    def _alone(self) -> str:
        """The candidate with nothing but layers in int8."""
        return SLOWER if self._prepared.slower else "static, layers alone"

    @property
    def _layers(self) -> tuple[QuantizeConfig, tuple[str, ...]]:
        """How layers are quantized where nothing else may cost accuracy: scheme and operators."""
        config = self._by_error if self._parts_by_error else self._config
        return config, LAYERS if self._prepared.has_pieces else ()

    def _corrected(self, path: Path) -> None:
        known = self._prepared
        equal, corrected = known.folder / "equalized.onnx", known.folder / "corrected.onnx"
        equalize(known.file, equal)
        statistics = known.calibration.passed(equal, channels=corrected_inputs(equal))
        correct_biases(equal, corrected, statistics, self._config)
        known.static_alone(corrected, path)

    def _by_rows(self, path: Path) -> None:
        """Static int8 of products alone, of convolutions along one axis as well."""
        known = self._prepared
        products, rows = known.folder / "products.onnx", known.folder / "rows.onnx"
        made = write_changed(known.file, products, known.samples[0], as_products)
        if not normalize_rows(products if made else known.file, rows):
            raise CompressError("no product, and no convolution along one axis, is large enough")
        known.static_alone(rows, path, kinds=PRODUCTS)

    def _smooth(self, path: Path, config: QuantizeConfig | None = None) -> None:
        self._prepared.static_alone(self._smoothed(), path, config=config)
        quantize_tables(path)

    def _smooth_dynamic(self, path: Path) -> None:
        self._prepared.dynamic(self._smoothed(), path)

    def _smoothed(self) -> Path:
        """A file with smoother activations, made once."""
        known = self._prepared
        path = known.folder / "smooth.onnx"
        if path.exists():
            return path
        if not smooth(known.file, path, known.samples, self._config, known.calibration):
            remove(path)
            raise CompressError("no product comes nearer to fp32 by it")
        return path
