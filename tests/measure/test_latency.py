"""Latency: figures from arrays that are given, and real workers on a model of one product."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from compress.errors import InputError, ShapeMismatch, WorkerFailed
from compress.measure import latency, processes, worker
from compress.measure.blocks import WarmUp
from compress.measure.config import BenchConfig
from compress.measure.latency import CONTROL, Cell, Measured, measure, measure_memory
from compress.measure.processes import ArmFailed, environment

SMALL = BenchConfig(batch=(1, 2), threads=(1,), workers=2, rounds=2, block_ms=0.5, warm_up_s=0.002)


def write(path: Path, repeats: int = 1) -> Path:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])
        for name in ("v0", f"v{repeats}")
    ]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(repeats)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("latency") / "model.onnx")


def given_blocks(**milliseconds: list[list[float]]) -> Measured:
    """One batch size; keyword `name_threads` to (workers, rounds) block medians."""
    blocks = {}
    for name, values in milliseconds.items():
        arm, _, threads = name.partition("_")
        blocks[arm, 1, int(threads or 1)] = np.array(values) * 1e6
    return Measured(blocks, dict.fromkeys(blocks, 7))


def test_a_ratio_worked_by_hand():
    # Per worker the median over rounds of candidate / baseline: 0.5, 0.4 and 0.8.
    measured = given_blocks(
        a=[[2.0, 2.0, 4.0], [1.0, 1.0, 1.0], [1.0, 2.0, 4.0]],
        b=[[1.0, 1.0, 1.0], [0.4, 0.4, 9.0], [0.8, 1.6, 3.2]],
    )
    ratio, interval, workers = measured.ratio("a", "b", 1)
    # Walsh averages of logs: three values and three means of pairs; their median is the estimate.
    logs = np.log([0.5, 0.4, 0.8])
    walsh = sorted([*logs, *(logs + np.roll(logs, 1)) / 2])
    assert ratio == pytest.approx(np.exp((walsh[2] + walsh[3]) / 2))
    assert (interval, workers) == ((0.0, np.inf), 3)
    assert measured.overall("a", "b") == pytest.approx(ratio)
    assert measured.arms() == ["a", "b"]


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 10), st.integers(0, 10**6))
def test_the_interval_is_the_signed_rank_tests_own(workers: int, seed: int):
    random = np.random.default_rng(seed)
    ratios = random.lognormal(0, 0.2, workers)
    under = random.uniform(1, 2, (workers, 4))
    measured = given_blocks(a=under.tolist(), b=(under * ratios[:, None]).tolist())
    ratio, (low, high), _ = measured.ratio("a", "b", 1)
    assert low <= ratio <= high

    def p_value(bound: float) -> float:
        shifted = np.log(ratios) - np.log(bound)
        return float(stats.wilcoxon(shifted, method="exact").pvalue)

    # Just outside the interval the exact test rejects at 5 %; just inside it does not.
    for bound, outwards in ((low, 1 - 1e-9), (high, 1 + 1e-9)):
        assert p_value(bound * outwards) <= 0.05
        assert p_value(bound / outwards) > 0.05


def test_overall_is_the_geometric_mean_over_batches():
    blocks = {
        (arm, batch, 1): np.full((2, 2), value)
        for batch, values in ((1, (4.0, 1.0)), (8, (1.0, 1.0)))
        for arm, value in zip("ab", values, strict=True)
    }
    measured = Measured(blocks, dict.fromkeys(blocks, 1))
    assert measured.overall("a", "b") == pytest.approx(0.5)
    assert measured.overall("b", "a") == pytest.approx(2.0)


def test_every_arm_is_judged_by_its_own_best_thread_count():
    measured = given_blocks(a_1=[[4.0, 4.0]], a_2=[[2.0, 2.0]], b_1=[[1.0, 1.0]], b_2=[[3.0, 3.0]])
    assert measured.best("a", 1) == Cell("a", 1, 2)
    assert measured.best("b", 1) == Cell("b", 1, 1)
    assert measured.ratio("a", "b", 1)[0] == pytest.approx(0.5)
    assert [(point.threads, point.best) for point in measured.latency("a")] == [
        (1, False),
        (2, True),
    ]


def test_figures_for_the_report():
    blocks = np.arange(1.0, 31.0).reshape(5, 6)
    measured = given_blocks(a=blocks.tolist(), few=blocks[:4, :].tolist())
    (point,) = measured.latency("a")
    assert point.median_ms == np.median(np.median(blocks, axis=1)) == 15.5
    assert point.workers_ms == [3.5, 9.5, 15.5, 21.5, 27.5]
    assert point.p90_ms == pytest.approx(np.percentile(blocks, 90))
    assert (point.n, point.batch, point.threads) == (7, 1, 1)
    assert point.throughput == pytest.approx(1000 / 15.5)
    (point,) = measured.latency("few")
    assert point.p90_ms is None


def test_a_real_measurement_end_to_end(model: Path, tmp_path: Path):
    seen = []
    longer = write(tmp_path / "longer.onnx", repeats=200)
    measured = measure(
        {"short": model, "long": longer},
        SMALL,
        progress=lambda *step: seen.append(step),
        label="speed",
    )
    assert measured.arms() == ["short", "long", CONTROL]  # though a coin shuffled them
    assert set(measured.blocks) == {
        Cell(arm, batch, 1) for arm in ("short", "long", CONTROL) for batch in (1, 2)
    }
    for cell, blocks in measured.blocks.items():
        assert blocks.shape == (2, 2)
        assert (blocks > 0).all()
        assert measured.calls[cell] >= 2 * 2 * 3
    assert seen == [("speed", 1, 2), ("speed", 2, 2)]
    assert {point.batch for point in measured.latency("short")} == {1, 2}


def test_without_a_control_there_is_none(model: Path):
    config = SMALL.model_copy(update={"control": False, "workers": 1, "batch": (1,)})
    rows = np.zeros((1, 4), np.float32)
    assert measure({"a": model}, config, inputs=lambda batch: (rows[:batch],)).arms() == ["a"]


def test_memory_of_each_arm_is_measured_on_its_own(model: Path):
    found = measure_memory({"a": model, "b": model}, SMALL)
    assert found.keys() == {"a", "b"}
    assert all(0 <= size < 2**30 for size in found.values())


@pytest.mark.parametrize("call", [measure, measure_memory])
def test_a_model_that_does_not_load_is_named(tmp_path: Path, model: Path, call: Callable):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(WorkerFailed) as caught:
        call({"good": model, "bad one": path}, SMALL)
    message = str(caught.value)
    assert message.startswith(f"measuring bad one: {path}: onnxruntime cannot load it: ")
    assert "\n" not in message


def test_data_that_does_not_fit_is_told_of_the_arm(model: Path):
    wide = np.zeros((2, 5), np.float32)
    settings = {"inputs": lambda batch: (wide[:batch],)}
    with pytest.raises(WorkerFailed, match=r"^measuring a: .*the data is float32 \[1, 5\]\.$"):
        measure({"a": model}, SMALL.model_copy(update={"control": False}), **settings)
    failed: dict[str, str] = {}
    with pytest.raises(ShapeMismatch, match=r"takes v0 .*the data is float32 \[2, 5\]"):
        measure_memory({"a": model}, SMALL, failed=failed, **settings)


def test_an_arm_that_fails_is_left_out_and_the_others_go_on(model: Path, tmp_path: Path):
    bad = tiny.out_of_range(tmp_path / "bad.onnx", "v0", (4,))
    arms = {"good": model, "bad": bad, "other": model}
    measured = measure(arms, SMALL, keep_going=True)
    assert set(measured.arms()) == {"good", "other", CONTROL}
    assert measured.failed.keys() == {"bad"}
    assert "indices" in measured.failed["bad"]
    failed: dict[str, str] = {}
    assert measure_memory(arms, SMALL, failed=failed).keys() == {"good", "other"}
    assert failed == measured.failed
    for first in ({"bad": bad, "good": model}, {"bad": bad}):
        with pytest.raises(WorkerFailed, match=r"^measuring (bad|first arm again): "):
            measure(first, SMALL, keep_going=True)
    with pytest.raises(WorkerFailed, match=r"^measuring bad: "):
        measure(arms, SMALL)


def answer(job: dict, value: int = 1000) -> dict:
    """What a worker would answer in which every block took as long."""
    names = [(arm["name"], 1) for arm in job["arms"]]
    cell = {"batch": 1, "threads": 1, "blocks_ns": [value, value], "calls_per_block": 3}
    cell |= {"length": None, "load_ns": 5, "first_call_ns": 7, "unstable": job["seed"] == 3001}
    noise = {"seconds": 1.0, "calibration_ns": [9, 9]}
    return {
        "cells": [cell | {"arm": arm, "single_ns": [value]} for arm, _ in names[::-1]],
        "order": [(1, None, names)],
        "noise": noise,
        "cpus": [0],
        "rounds": [2],
    }


def test_workers_draw_different_coins_from_the_seed(model: Path, monkeypatch: pytest.MonkeyPatch):
    seeds = []

    def run(job: dict, *_: object) -> dict:
        seeds.append(job["seed"])
        return answer(job)

    monkeypatch.setattr(latency, "run_worker", run)
    measured = measure({"a": model}, SMALL, seed=3)
    assert seeds == [entry.seed for entry in measured.workers] == [3000, 3001]
    (point,) = measured.latency("a")
    assert (point.load_ms, point.first_call_ms, point.unstable, point.n) == (5e-6, 7e-6, 1, 12)


def test_an_arm_that_fails_late_takes_its_earlier_figures_along(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def run(job: dict, *_: object) -> dict:
        names = [arm["name"] for arm in job["arms"]]
        seen.append((job["seed"], names))
        if job["seed"] == 1 and "b" in names:
            raise ArmFailed("b", "it fell over", None)
        return answer(job)

    monkeypatch.setattr(latency, "run_worker", run)
    measured = measure({"a": model, "b": model, "c": model}, SMALL, keep_going=True)
    left = ["a", "c", CONTROL]
    assert [coin for coin, _ in seen] == [0, 1, 1]
    assert seen[-1][1] == measured.arms() == left
    assert measured.failed == {"b": "it fell over"}
    assert [entry.order for entry in measured.workers] == [[[0, 1, 2]], [[0, 1, 2]]]
    assert all(rows.shape == (2, 2) for rows in measured.blocks.values())


def test_a_worker_that_dies_before_any_arm_names_all(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerFailed) as caught:
        measure({"a": model}, SMALL, keep_going=True)
    assert str(caught.value) == f"measuring a, {CONTROL}: the process died: exit code 1."


#: Stands for a worker that reached the second arm; what it does then follows.
REACHED = """
import json, os, signal, sys, time
job = json.load(sys.stdin)
open(job["trace"], "w").write("%12d %6d" % (1, 1))
"""


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the process was killed by SIGKILL, as happens where memory runs out",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process was killed by SIGSEGV"),
        ("time.sleep(60)", "the process hung for 2 s and was stopped"),
        ("sys.exit('no more')", "the process died: no more"),
    ],
)
def test_how_an_arm_failed_is_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, then: str, reason: str
):
    monkeypatch.setattr(processes, "_WORKER", ("-c", REACHED + then))
    config = SMALL.model_copy(update={"timeout": 2.0, "control": False})
    with pytest.raises(WorkerFailed) as caught:
        measure({"a": model, "b": model}, config)
    assert str(caught.value) == f"measuring b: {reason}."


def test_a_worker_without_a_sign_of_life_is_stopped(model: Path):
    with pytest.raises(WorkerFailed) as caught:
        measure({"a": model}, SMALL.model_copy(update={"timeout": 0.01}))
    assert str(caught.value).endswith("the process hung for 0.01 s and was stopped.")


def test_a_worker_starts_without_what_it_does_not_need():
    heavy = ("pydantic", "scipy", "torch", "jinja2")
    code = f"""
import sys
import compress.measure.worker
from compress.runtime.interface import import_runtime
import_runtime("onnxruntime")
print([name for name in {heavy} if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(1))
    assert done.stdout == "[]\n"


def test_threads_stand_in_a_workers_environment():
    found = environment(3)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("3", "3")
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"


def test_workers_are_pinned_where_that_is_asked_for(model: Path):
    cpu = min(worker._cpus())
    config = SMALL.model_copy(update={"workers": 1, "batch": (1,)})
    (free,) = measure({"a": model}, config).workers
    assert free.cpus == worker._cpus()
    pinned = config.model_copy(update={"affinity": (cpu,)})
    (held,) = measure({"a": model}, pinned).workers
    assert held.cpus == [cpu]
    with pytest.raises(InputError, match=r"affinity: CPUs \[9999\] are not among those allowed"):
        measure({"a": model}, config.model_copy(update={"affinity": (9999,)}))
    assert BenchConfig(affinity=0).affinity == (0,)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """The order of blocks in one worker, by seed and rounds; nothing is timed."""
    ran: list[str] = []

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        def example(self, batch: int, length: int | None = None) -> tuple[()]:
            return ()

        def bind(self, inputs: object) -> str:
            return self.name

        def prepare(self) -> None: ...

    class Block:
        calls, loop, unstable, single_ns = 3, 1, False, ()

        def __init__(self, call: str, *_: object) -> None:
            self.name = call

        def warm(self, plan: WarmUp) -> bool:
            return True

        def fit(self) -> None: ...

        def run(self) -> int:
            ran.append(self.name)
            return len(ran)

    monkeypatch.setattr(worker, "Block", Block)
    monkeypatch.setattr(worker, "_open", lambda arm, *_: Model(arm["name"]))
    monkeypatch.setattr(worker.gc, "freeze", lambda: None)

    def run(seed: int, rounds: int, limit_s: float | None = None) -> list[str]:
        ran.clear()
        arms = [{"name": name, "file": "", "runtime": "onnxruntime"} for name in "abcd"]
        job = {"seed": seed, "batch": [1], "arms": arms, "threads": [1], "device": "cpu"}
        job["left_out"] = []
        job |= {"rounds": [rounds], "block_ms": 1.0, "inputs": {}, "length": None}
        job["limit_s"] = limit_s
        job |= {"warm_up_s": 0.0, "warm_up_calls": 0, "warm_up_cap_s": 0.0}
        found = worker.latencies(job, worker.Trace(None))
        assert found["rounds"] == [len(ran) // len(arms)]
        assert all(len(entry["blocks_ns"]) == found["rounds"][0] for entry in found["cells"])
        assert all(entry["calls_per_block"] == 3 for entry in found["cells"])
        assert found["order"] == [(1, None, [(name, 1) for name in ran[:4]])]
        return list(ran)

    return run


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_blocks_turns_round(order: Callable[[int, int], list[str]], seed: int):
    ran = order(seed, 8)
    rounds = [ran[start : start + 4] for start in range(0, 32, 4)]
    forward = rounds[0]
    assert sorted(forward) == list("abcd")
    back = forward[::-1]
    assert rounds == [forward, back, back, forward] * 2
    # Linear drift adds the same to every arm: the mean place is equal after two rounds already.
    places = {name: [i for i, arm in enumerate(ran[:8]) if arm == name] for name in "abcd"}
    assert len({sum(where) for where in places.values()}) == 1


@pytest.mark.parametrize(("limit_s", "rounds"), [(None, 8), (1000, 8), (25, 4), (15, 2), (0.5, 1)])
def test_where_the_time_is_up_rounds_end_behind_the_first_or_a_pair_of_them(
    order: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    limit_s: float | None,
    rounds: int,
):
    clock = iter(range(0, 10_000, 9))
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    assert len(order(0, 8, limit_s)) == 4 * rounds


@pytest.mark.parametrize(
    ("limit_s", "takes", "workers"),
    [(None, 100, 8), (300, 10, 8), (300, 40, 7), (300, 500, 6)],
)
def test_slow_models_are_timed_by_fewer_processes_and_each_does_as_many_rounds(
    model: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float | None, takes: float, workers: int
):
    jobs, now = [], [0.0]

    def run(job: dict, *_: object) -> dict:
        jobs.append(dict(job))
        now[0] += takes
        return answer(job)

    monkeypatch.setattr(latency, "run_worker", run)
    monkeypatch.setattr(latency.time, "monotonic", lambda: now[0])
    config = SMALL.model_copy(update={"workers": 8, "rounds": 6, "limit_s": limit_s})
    measured = measure({"a": model}, config)
    assert len(measured.workers) == workers
    assert not measured.interrupted  # by nobody
    assert jobs[0]["limit_s"] == (None if limit_s is None else limit_s / 8)
    assert [job["rounds"] for job in jobs] == [[6, 6]] + [[2]] * (workers - 1)
    assert not any(job["limit_s"] for job in jobs[1:])


def test_of_slow_models_threads_that_lost_are_timed_once_and_left_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
):
    jobs, now = [], [0.0]
    took = {("a", 1): 9, ("a", 2): 5, ("b", 1): 7, ("b", 2): 5}

    def run(job: dict, *_: object) -> dict:
        jobs.append(dict(job))
        now[0] += 100.0
        left_out = {tuple(cell) for cell in job["left_out"]}
        found = answer(job)
        found["cells"] = [
            {**found["cells"][0], "arm": arm, "threads": threads, "blocks_ns": [took[arm, threads]]}
            for arm, threads in took
            if (arm, 1, threads, None) not in left_out
        ]
        return found

    monkeypatch.setattr(latency, "run_worker", run)
    monkeypatch.setattr(latency.time, "monotonic", lambda: now[0])
    config = SMALL.model_copy(update={"threads": (1, 2), "workers": 8, "limit_s": 300})
    measured = measure({"a": model, "b": model}, config)
    assert [cell[:3] for cell in measured.blocks] == [("a", 1, 2), ("b", 1, 1), ("b", 1, 2)]
    assert [blocks.shape for blocks in measured.blocks.values()] == [(6, 1)] * 3
    assert jobs[0]["left_out"] == []


def test_an_interrupt_is_told_apart_from_a_limit(model: Path, monkeypatch: pytest.MonkeyPatch):
    jobs = []

    def run(job: dict, *_: object) -> dict:
        jobs.append(job)
        if len(jobs) == 2:
            raise KeyboardInterrupt
        return answer(job)

    monkeypatch.setattr(latency, "run_worker", run)
    config = SMALL.model_copy(update={"workers": 4})
    measured = measure({"a": model}, config, keep_interrupted=True)
    assert (len(measured.workers), measured.interrupted) == (1, True)


def test_the_first_order_is_drawn_by_the_seed(order: Callable[[int, int], list[str]]):
    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, 2)[:4]) for seed in range(12)}) > 4


def test_cells_are_left_out(model: Path):
    config = SMALL.model_copy(update={"threads": (1, 2), "control": False})
    left_out = [Cell("a", 1, 2), Cell("b", 2, 1)]
    found = measure({"a": model, "b": model}, config, left_out=left_out)
    every = {Cell(arm, batch, n) for arm in "ab" for batch in (1, 2) for n in (1, 2)}
    assert set(found.blocks) == every - set(left_out)
    assert found.best("a", 1) == Cell("a", 1, 1)
    assert {len(drawn) for worker in found.workers for drawn in worker.order} == {3}
