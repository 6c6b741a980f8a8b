"""Counters from files that are given, and the line that a person reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress.measure.noise import (
    Counters,
    calibration_ns,
    describe_noise,
    noise_between,
    read_counters,
)
from compress.report.measure_schema import Noise, RawWorker


def put(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_a_machine_does_not_offer_is_none(tmp_path: Path):
    found = read_counters(tmp_path)
    assert (found.steal_ms, found.cpu_pressure_ms) == (None, None)
    assert (found.throttled_ms, found.throttled_periods) == (None, None)


def test_every_counter_is_read_from_its_file(tmp_path: Path):
    put(tmp_path, "proc/stat", "cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    pressure = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4500\nfull avg10=0.00 total=7\n"
    put(tmp_path, "proc/pressure/cpu", pressure)
    put(tmp_path, "proc/self/cgroup", "0::/some/group\n")
    stat = "usage_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 12000\n"
    put(tmp_path, "sys/fs/cgroup/some/group/cpu.stat", stat)
    found = read_counters(tmp_path)
    assert found.steal_ms == 250 * 1000 / os.sysconf("SC_CLK_TCK")
    assert (found.cpu_pressure_ms, found.throttled_ms, found.throttled_periods) == (4.5, 12.0, 3)


def test_the_older_control_groups_count_nanoseconds(tmp_path: Path):
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.stat", "nr_throttled 2\nthrottled_time 3000000\n")
    found = read_counters(tmp_path)
    assert (found.throttled_ms, found.throttled_periods) == (3.0, 2)


def test_differences_of_what_both_moments_know():
    before = Counters(1.0, 10, 100.0, None, 0.0, 0)
    after = Counters(3.5, 17, 130.4, 5.0, 2.6, 1)
    assert Noise(**noise_between(before, after, (7, 8))) == Noise(
        seconds=2.5,
        involuntary_switches=7,
        steal_ms=30,
        cpu_pressure_ms=None,
        throttled_ms=3,
        throttled_periods=1,
        calibration_ns=(7, 8),
    )


def test_the_line_for_a_person(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    noise = Noise(
        seconds=2.0,
        involuntary_switches=6,
        steal_ms=100,
        throttled_ms=0,
        calibration_ns=(1000, 1050),
    )
    workers = [RawWorker(seed=0, order=[[0]], noise=noise)] * 2
    assert describe_noise(workers) == (
        "2.5 % taken by the hypervisor; 0.0 % throttled; 3 involuntary context switches a second; "
        "a fixed piece of work varied by 4.9 % over all workers"
    )
    assert describe_noise([]) == ""


def test_the_calibration_takes_time():
    assert calibration_ns() > 0
