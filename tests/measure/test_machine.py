"""What the figures were taken on, against the system's own words."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from compress.measure import machine as module
from compress.measure.machine import machine, versions


def test_facts_are_the_systems_own():
    facts = machine()
    assert facts["architecture"] == platform.machine()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["python"] == platform.python_version()
    assert facts["system"].startswith(platform.system())
    assert facts["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert facts["versions"]["onnxruntime"] == onnxruntime.__version__
    assert facts["versions"]["numpy"] == np.__version__
    assert json.loads(json.dumps(facts)) == facts
    (line,) = (
        line
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert facts["memory_bytes"] == int(line.split()[1]) * 1024


CPUINFO = """processor\t: 0
model name\t: Some CPU @ 3.0 GHz
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 avx2_not_quite

processor\t: 1
model name\t: Another
flags\t\t: amx_bf16
"""


@pytest.mark.parametrize(
    ("text", "processor", "sets"),
    [
        (CPUINFO, "Some CPU @ 3.0 GHz", ["avx2", "avx512f", "avx512_vnni", "amx_int8"]),
        ("processor : 0\nFeatures : fp asimd asimddp\n", None, ["asimddp"]),
        ("", None, []),
    ],
)
def test_the_first_processor_is_described(
    text: str,
    processor: str | None,
    sets: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(platform, "processor", lambda: "")
    facts = machine()
    assert (facts["processor"], facts["instruction_sets"]) == (processor, sets)


def test_what_a_system_does_not_tell_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(module, "Path", lambda name: tmp_path / "nowhere")
    monkeypatch.setattr(os, "sysconf", refuse)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(platform, "processor", lambda: "")
    facts = machine()
    assert (facts["processor"], facts["memory_bytes"], facts["cores"]) == (None, None, 5)
    assert facts["instruction_sets"] == []


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch):
    def version(package: str) -> str:
        if package == "torch-pruning":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(module, "version", version)
    assert versions() == dict.fromkeys(("torch", "onnx", "onnxruntime", "openvino", "numpy"), "1.0")
