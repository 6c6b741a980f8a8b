"""How often the weights of a model are in memory at once, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from chains import CONFIG, StaticMaker, batches, products

from compress.measure.memory import forget_peak, peak
from compress.onnx_files import size_bytes
from compress.quantization.bias_correction import correct_biases, corrected_inputs
from compress.quantization.calibration import collect
from compress.quantization.config import QuantizeConfig
from compress.quantization.dynamic import quantize_dynamic_int8
from compress.quantization.equalization import equalize
from compress.quantization.layers import layers
from compress.quantization.prepared import Prepared
from compress.quantization.rewriting import files
from compress.quantization.rewriting.simplify import simplify
from compress.quantization.sensitivity import sensitivities
from compress.quantization.static import quantize_static_int8

#: What is freed goes back to the system at once, so that a peak is what was needed.
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
_WIDTH = 1024

pytestmark = pytest.mark.skipif(forget_peak() is None, reason="no account of memory here")


@pytest.fixture(scope="module")
def copies() -> dict[str, list[float]]:
    """By step, at its peak and behind it."""
    settings = os.environ | _SETTINGS | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__]
    made = subprocess.run(command, env=settings, stdout=subprocess.PIPE, check=True)
    found: dict[str, list[float]] = json.loads(made.stdout)
    return found


@pytest.mark.parametrize(
    ("step", "most"),
    [
        ("simplify", 4.5),  # before and behind a step, and what onnxruntime makes of it
        ("dynamic", 1.8),  # fp32, and the layer that becomes int8
        ("static", 2.4),  # fp32, and of each layer what the quantizer makes
        ("equalize", 3.3),  # as read, as changed, and as it is written
        ("sensitivities", 3.6),  # fp32, the same with switches, and int8 of both
    ],
)
def test_the_peak_is_a_few_times_the_weights(
    copies: dict[str, list[float]], step: str, most: float
):
    assert copies[step][0] < most


def test_what_is_known_of_a_graph_holds_no_weights(copies: dict[str, list[float]]):
    assert copies["prepared"][1] < 0.5
    assert max(kept for _, kept in copies.values()) < 0.5


def _steps(folder: Path) -> dict[str, Callable[[], object]]:
    source, file, samples = folder / "fp32.onnx", folder / "prepared.onnx", batches((_WIDTH,))
    files.save(products(6, _WIDTH), source)
    simplify(source, file, samples[0])  # what is imported and set up once is no step's
    make = StaticMaker(file, samples)
    groups, config = layers(files.load(file)), QuantizeConfig(per_channel=False)
    statistics = collect(file, samples, channels=corrected_inputs(file))
    ranges, later = statistics.ranges(), list(groups)[1:]
    return {
        "simplify": lambda: simplify(source, file, samples[0]),
        "prepared": lambda: Prepared(file, folder, samples, config),
        "static": lambda: quantize_static_int8(file, folder / "static.onnx", ranges, CONFIG),
        "dynamic": lambda: quantize_dynamic_int8(file, folder / "dynamic.onnx", keep_fp32=later),
        "equalize": lambda: equalize(file, folder / "equal.onnx"),
        "bias": lambda: correct_biases(file, folder / "corrected.onnx", statistics, CONFIG),
        "sensitivities": lambda: sensitivities(file, make, groups, samples, folder),
    }


def _main() -> None:
    files._LARGEST = 2**20  # as over 2 GB
    found = dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step, call in _steps(folder).items():
            weights, before = size_bytes(folder / "fp32.onnx"), forget_peak() or 0
            made, most = call(), peak() or 0
            found[step] = [(at - before) / weights for at in (most, forget_peak() or 0)]
            del made
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
