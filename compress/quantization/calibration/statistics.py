"""What calibration knows of a graph: ranges by every method from one pass, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from compress.errors import InputError, UnknownName
from compress.onnx_files import model_digest
from compress.quantization.calibration.histogram import Histogram
from compress.quantization.calibration.ranges import entropy_range, mse_range, percentile_range
from compress.quantization.calibration.tensor import Channels, TensorStatistics
from compress.quantization.config import Method

#: By the name of a tensor, the least and the largest value that int8 has to hold.
Ranges = dict[str, tuple[float, float]]
METHODS = get_args(Method)

_VERSION = 2
_NUMBERS = (
    "count",
    "masked",
    "low",
    "high",
    "average_low",
    "average_high",
    "batches",
)
_INTEGERS = {"count", "masked", "batches"}


@dataclass(frozen=True)
class Statistics:
    """All tensors of one ONNX file.

    Attributes:
        source: SHA-256 of the file.
        samples, batches: that were run.
        tensors: by name.
    """

    source: str
    samples: int
    batches: int
    tensors: dict[str, TensorStatistics]

    def ranges(
        self, method: Method = "minmax", *, percentile: float = 99.99, levels: int = 256
    ) -> Ranges:
        """A range for each tensor that can have one; around zero, and never empty.

        A tensor that never had a value has none, nor one that held minus infinity: int8 has no
        number for what an attention mask leaves out.

        Args:
            percentile: share of the values to keep, for "percentile"; half of the rest is cut off
                at each end.
            levels: of the integer type, for "mse".

        Raises:
            UnknownName: no such method.
        """
        if method not in METHODS:
            raise UnknownName("calibration method", method, METHODS)
        found = {}
        for name, tensor in self.tensors.items():
            if tensor.count and not tensor.masked:
                low, high = _range(tensor, method, percentile, levels)
                found[name] = _usable(min(low, 0.0), max(high, 0.0))
        return found

    def save(self, path: Path) -> None:
        """Write all of it as one npz file."""
        write(path, {"": self})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of it by name, to be written."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "version": np.array(_VERSION),
            "source": np.array(self.source),
            "run": np.array([self.samples, self.batches]),
            "names": np.array(list(self.tensors), dtype=np.str_),
            "limits": np.array([tensor.histogram.limit for tensor in self.tensors.values()]),
            "counts": np.array([tensor.histogram.counts for tensor in self.tensors.values()]),
        }
        for field in _NUMBERS:
            arrays[field] = np.array([getattr(entry, field) for entry in self.tensors.values()])
        for place, tensor in enumerate(self.tensors.values()):
            if tensor.channels is not None and tensor.channels.largest is not None:
                arrays |= _channel_arrays(place, tensor.channels)
        return arrays

    @classmethod
    def load(cls, path: Path, source: Path) -> Statistics:
        """Read what `save` wrote.

        Args:
            source: the ONNX file that is to be quantized.

        Raises:
            InputError: the file is missing, damaged, or of another ONNX file.
        """
        known = read(path)
        if "" not in known:
            raise InputError(f"{path}: statistics of several passes; expected those of one.")
        found, expected = known[""], model_digest(source)
        if found.source != expected:
            raise InputError(
                f"{path}: statistics of another file (SHA-256 {found.source[:12]}…) than {source} "
                f"({expected[:12]}…); calibrate again."
            )
        return found


def _range(
    tensor: TensorStatistics, method: Method, percentile: float, levels: int
) -> tuple[float, float]:
    low, high, histogram = tensor.low, tensor.high, tensor.histogram
    if method == "moving-average":
        return tensor.average_low, tensor.average_high
    if method == "percentile":
        return percentile_range(histogram, low, high, percentile)
    if method == "entropy":
        return entropy_range(histogram, low, high)
    if method == "mse":
        return mse_range(histogram, low, high, levels)
    return low, high


def _usable(low: float, high: float) -> tuple[float, float]:
    """The range, or any other where it is too narrow to be divided by in fp32."""
    return (low, high) if high - low > 1e-30 else (low, low + 1.0)


def _channel_arrays(place: int, channels: Channels) -> dict[str, npt.NDArray[Any]]:
    assert channels.largest is not None
    assert channels.total is not None
    return {
        f"channels_{place}": np.stack([channels.largest, channels.total]),
        f"channels_{place}_of": np.array([channels.axis, channels.count]),
    }


def write(path: Path, passes: Mapping[str, Statistics]) -> None:
    """Write the statistics of passes as one npz file; an array's name begins with the pass's."""
    arrays = {
        f"{key}/{name}" if key else name: array
        for key, found in passes.items()
        for name, array in found.arrays().items()
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read(path: Path) -> dict[str, Statistics]:
    """What `write` wrote, in its order.

    Raises:
        InputError: the file is missing, damaged, or of another version.
    """
    passes: dict[str, dict[str, npt.NDArray[Any]]] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for full, array in arrays.items():
                key, _, name = full.rpartition("/")
                passes.setdefault(key, {})[name] = array
        for arrays_of in passes.values():
            if int(arrays_of["version"]) != _VERSION:
                raise InputError(
                    f"{path}: statistics of version {arrays_of['version']}, expected {_VERSION}; "
                    "calibrate again."
                )
        return {key: _from_arrays(found) for key, found in passes.items()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected saved statistics (npz).") from None
    except InputError:
        raise
    except Exception as error:  # zip, numpy and a missing array raise what they please
        raise InputError(
            f"{path}: not saved statistics ({type(error).__name__}); calibrate again."
        ) from None


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> Statistics:
    tensors = {}
    for place, name in enumerate(arrays["names"]):
        histogram = Histogram(arrays["counts"].shape[1] // 2)
        histogram.counts = arrays["counts"][place]
        histogram.limit = float(arrays["limits"][place])
        numbers = {
            field: (int if field in _INTEGERS else float)(arrays[field][place])
            for field in _NUMBERS
        }
        channels = _channels(arrays, place)
        tensors[str(name)] = TensorStatistics(histogram, channels=channels, **numbers)  # type: ignore[arg-type]
    samples, batches = (int(number) for number in arrays["run"])
    return Statistics(str(arrays["source"]), samples, batches, tensors)


def _channels(arrays: dict[str, npt.NDArray[Any]], place: int) -> Channels | None:
    if f"channels_{place}" not in arrays:
        return None
    largest, total = arrays[f"channels_{place}"]
    axis, count = (int(number) for number in arrays[f"channels_{place}_of"])
    return Channels(axis, largest, total, count)
