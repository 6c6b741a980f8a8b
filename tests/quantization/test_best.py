"""The choice between quantized models, on latencies and scores that are given, and on real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from compress.data.task import MSE, Task
from compress.errors import ModelFileError
from compress.export.graph import operators
from compress.measure.config import BenchConfig
from compress.measure.judge import TaskJudge
from compress.measure.latency import Footprint
from compress.measure.measured import Beside, Cell, Measured
from compress.quantization import best, candidates, losses, timing
from compress.quantization.building import Built, build
from compress.quantization.config import QuantizeConfig
from compress.quantization.losses import Losses
from compress.report.measure_schema import Noise, RawWorker
from compress.report.schema import Candidate
from compress.runtime.interface import Target
from compress.runtime.onnxruntime import Session

INPUT = "the input"
WORKER = RawWorker(seed=0, order=[], noise=Noise(seconds=1.0, calibration_ns=(1, 1)))


class Stage:
    """`best.choose` on arms whose latency ratio, hits of 100 and size in bytes are given.

    Two ratios are those at batch 1 and 3.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
        self.folder, self.monkeypatch, self.task = folder, monkeypatch, task
        self.configs: list[BenchConfig] = []
        self.workers = 9
        self.at_last: dict[str, float] = {}  # arm to what its latency is times, in the last look
        self.timed: list[dict[str, Path]] = []
        self.free, self.takes = 24_000, Footprint(None, 0.001)

    def choose(
        self,
        arms: dict[str, tuple[float | tuple[float, float], int, int]],
        max_drop: float = 0.02,
        minimise: str = "latency",
        failures: dict[str, str] | None = None,
        runtimes: tuple[str, ...] = (),
    ) -> tuple[str | None, dict[str, Candidate]]:
        files, hits = {}, {}
        for number, (name, (_, right, size)) in enumerate(arms.items()):
            files[name] = self.folder / f"{number}.onnx"
            files[name].write_bytes(b"x" * size)
            hits[files[name]] = right

        def measure(timed: dict[str, Target], config: BenchConfig, **_: object) -> Measured:
            self.timed.append({name: target.path for name, target in timed.items()})
            self.configs.append(config)
            given = {arm: (arms.get(arm) or arms[arm.partition(",")[0]])[0] for arm in timed}
            blocks = {
                (arm, n, 1): np.full((9, 6), 1e6 * (time[n == 3] if type(time) is tuple else time))
                for arm, time in given.items()
                for n in config.batch
            }
            last = self.at_last if config.workers == timing.LAST_WORKERS else {}
            blocks = {
                cell: rows[: config.workers] * last.get(cell[0], 1) for cell, rows in blocks.items()
            }
            beside = dict.fromkeys(blocks, Beside())
            workers = (WORKER,) * min(config.workers, self.workers)
            stopped = len(workers) < config.workers
            return Measured(blocks, dict.fromkeys(blocks, 1), beside, workers, {}, stopped)

        def scores(_: Losses, target: Target) -> np.ndarray:
            return (np.arange(100) < hits[target.path]).astype(float)

        self.monkeypatch.setattr(timing, "measure", measure)
        self.monkeypatch.setattr(timing, "available", lambda: self.free)
        self.monkeypatch.setattr(timing, "footprints", lambda *_, **__: {INPUT: self.takes})
        self.monkeypatch.setattr(Losses, "_scores", scores)
        source, others = files[INPUT], {k: v for k, v in files.items() if k != INPUT}
        goal = best.Goal(source, max_drop, minimise, BenchConfig(batch=(1, 3), control=True))
        self.choice = best.choose(
            source,
            Built(others, failures or {}),
            TaskJudge(self.task),
            goal,
            stage="4-quantize",
            runtimes=runtimes,
        )
        return self.choice.name, {entry.name: entry for entry in self.choice.account}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_task: Task) -> Stage:
    return Stage(tmp_path, monkeypatch, tiny_task)


def test_the_fastest_within_the_budget_is_kept_and_the_others_say_why_not(stage: Stage):
    chosen, account = stage.choose(
        {
            INPUT: (1.0, 90, 400),
            "static": (0.5, 89, 100),
            "dynamic": (1.234, 90, 110),
            "wrong": (0.2, 80, 90),
            "weight-only": (0.99, 90, 105),
        },
        failures={"broken": "could not be built: no operator became int8"},
    )
    assert chosen == "static"
    assert {name: (entry.kept, entry.reason) for name, entry in account.items()} == {
        INPUT: (False, "static is faster or smaller"),
        "static": (True, "fastest within the budget"),
        "dynamic": (False, "slower than the input: 1.23 × its latency"),
        "wrong": (False, "validation drop 0.1000 is over the budget of 0.02"),
        "weight-only": (False, "static is faster or smaller"),
        "broken": (False, "could not be built: no operator became int8"),
    }
    static = account["static"]
    assert (static.stage, static.size_bytes) == ("4-quantize", 100)
    assert (static.drop, static.latency_ratio) == (pytest.approx(0.01), pytest.approx(0.5))
    assert account["broken"].latency_ratio is None


def test_a_drop_of_exactly_the_budget_is_within_it(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 87, 100)}
    assert stage.choose(arms, max_drop=0.03)[0] == "static"
    assert stage.choose(arms, max_drop=0.0299)[0] is None


def test_the_drop_is_counted_from_the_reference_and_may_be_negative(stage: Stage):
    chosen, account = stage.choose({INPUT: (1.0, 90, 400), "static": (0.9, 95, 100)}, max_drop=0.0)
    assert chosen == "static"
    assert account["static"].drop == pytest.approx(-0.05)


def test_of_an_error_a_rise_is_what_is_over_the_budget(stage: Stage):
    stage.task = replace(stage.task, metric=MSE)
    chosen, account = stage.choose({INPUT: (1.0, 10, 400), "wrong": (0.5, 20, 100)})
    assert chosen is None
    assert account["wrong"].reason == "validation rise 0.1000 is over the budget of 0.02"


def test_of_equally_fast_ones_the_smallest_is_kept(stage: Stage):
    chosen, account = stage.choose(
        {
            INPUT: (1.0, 90, 400),
            "static": (0.500, 90, 120),
            "dynamic": (0.514, 90, 100),
            "weight-only": (0.516, 90, 50),
        }
    )
    assert chosen == "dynamic"
    assert account["dynamic"].reason == "safest, or smallest, of those within 6% of the fastest"
    assert account["static"].reason == "dynamic is faster or smaller"


def test_of_those_also_equally_small_the_fastest_is_kept(stage: Stage):
    chosen, account = stage.choose(
        {
            INPUT: (1.0, 90, 400),
            "static": (0.500, 90, 102),
            "dynamic": (0.512, 90, 100),
            "weight-only": (0.499, 90, 104),
        }
    )
    assert chosen == "static"
    assert account["static"].reason == "safest, or smallest, of those within 6% of the fastest"


def test_of_equally_fast_ones_the_smallest_is_none_that_uses_most_of_the_budget(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 300), "weight-only": (0.5, 88, 50)}
    assert stage.choose(arms, max_drop=0.03)[0] == "static"
    assert stage.choose(arms, max_drop=0.04)[0] == "weight-only"
    del arms["static"]
    assert stage.choose(arms, max_drop=0.03)[0] == "weight-only"


def test_what_uses_up_the_budget_has_to_be_much_faster(stage: Stage):
    """20 % where it uses all of it; little over half of it costs next to nothing."""
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 86, 100), "dynamic": (0.58, 90, 100)}
    chosen, account = stage.choose(arms, max_drop=0.04)
    assert chosen == "dynamic"
    reason = "what is faster uses most of the budget, and may miss it on other data"
    assert account["dynamic"].reason == reason
    assert account["static"].reason == "dynamic loses less, and is little slower"
    assert stage.choose(arms, max_drop=0.07)[0] == "static"
    arms["dynamic"] = (0.65, 90, 100)
    assert stage.choose(arms, max_drop=0.04)[0] == "static"
    del arms["dynamic"]
    assert stage.choose(arms, max_drop=0.04)[0] == "static"


def test_where_nothing_else_is_faster_what_uses_up_the_budget_is_taken(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.9, 86, 100)}
    assert stage.choose(arms, max_drop=0.04)[0] == "static"
    arms["static"] = (0.96, 86, 100)
    assert stage.choose(arms, max_drop=0.04)[0] is None


def test_a_small_one_is_not_said_to_be_little_slower(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 100), "weight-only": (0.9, 90, 50)}
    chosen, account = stage.choose(arms, minimise="size")
    assert chosen == "weight-only"
    assert account["static"].reason == "weight-only is faster or smaller"


def test_where_nothing_qualifies_the_input_stays(stage: Stage):
    chosen, account = stage.choose(
        {INPUT: (1.0, 90, 400), "static": (0.5, 50, 100), "dynamic": (1.06, 90, 100)}
    )
    assert chosen is None
    assert account[INPUT].kept
    assert not account["static"].kept
    assert account["dynamic"].reason == "slower than the input: 1.06 × its latency"


def test_even_an_input_over_the_budget_stays_where_nothing_else_is_within(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    refusals = iter(["over the budget"] * 2)
    monkeypatch.setattr(best, "_refusal", lambda *_: next(refusals))
    chosen, account = stage.choose({INPUT: (1.0, 90, 400), "static": (0.5, 90, 100)})
    assert chosen is None
    assert account[INPUT].reason == "nothing else is within the budget"


def test_smaller_but_a_little_slower_than_the_input_is_refused(stage: Stage):
    chosen, account = stage.choose({INPUT: (1.0, 90, 400), "weight-only": (1.04, 90, 100)})
    assert chosen is None
    assert account["weight-only"].reason == "slower than the input: 1.04 × its latency"
    assert stage.choose({INPUT: (1.0, 90, 400), "weight-only": (1.02, 90, 100)})[0] == "weight-only"


def test_size_is_minimised_whatever_the_latency(stage: Stage):
    arms = {
        INPUT: (1.0, 90, 400),
        "static": (0.5, 90, 120),
        "weight-only": (1.5, 90, 100),
        "wrong": (0.5, 10, 1),
    }
    chosen, account = stage.choose(arms, minimise="size")
    assert chosen == "weight-only"
    assert account["weight-only"].reason == "smallest within the budget"
    assert account["wrong"].reason == "validation drop 0.8000 is over the budget of 0.02"
    assert stage.choose(arms)[0] == "static"


def test_a_choice_is_measured_with_few_processes_and_no_control(stage: Stage):
    arms = {
        INPUT: (1.0, 90, 400),
        "static": (0.5, 90, 100),
        "near": (0.6, 90, 100),
        "slow": (0.7, 90, 100),
        "wrong": (0.4, 10, 100),
    }
    stage.choose(arms)
    assert [list(names) for names in stage.timed] == [list(arms), [INPUT, "static", "near"]]
    look = BenchConfig(
        batch=(1, 3), rounds=2, control=False, warm_up_cap_s=0.1, workers=1, limit_s=150
    )
    assert stage.configs == [look, look.model_copy(update={"workers": 2, "rounds": 6})]


def test_groups_that_disagree_leave_out_no_arm_at_all():
    times = [{("a", 1): 1.0, ("a", 2): 1.6}, {("a", 1): 1.6, ("a", 2): 1.0, ("b", 1): 1.0}]
    groups = [
        Measured({Cell(arm, 1, n): np.full((1, 2), time) for (arm, n), time in each.items()}, {})
        for each in times
    ]
    assert timing._slow_threads(groups) == [Cell("a", 1, 1)]


def test_what_is_over_the_budget_is_not_timed_on_further_runtimes(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 100), "wrong": (0.4, 85, 100)}
    _, account = stage.choose(arms, runtimes=("openvino",))
    assert list(stage.timed[0]) == [*arms, f"{INPUT}, openvino", "static, openvino"]
    assert account["wrong"].latency_ratio == pytest.approx(0.4)
    untimed = account["wrong, openvino"]
    assert (untimed.latency_ratio, untimed.drop) == (None, pytest.approx(0.05))
    assert untimed.reason == "validation drop 0.0500 is over the budget of 0.02"


def test_what_is_faster_at_one_batch_size_is_told(stage: Stage):
    arms = {
        INPUT: (1.0, 90, 400),
        "static": ((0.5, 0.9), 90, 100),
        "dynamic": ((0.8, 0.6), 90, 100),
        "wrong": ((0.1, 0.1), 10, 100),
    }
    chosen, account = stage.choose(arms)
    assert chosen == "static"
    (batch,) = stage.choice.alone
    alone = stage.choice.alone[batch]
    assert (batch, alone.name, alone.threads) == (3, "dynamic", 1)
    assert (alone.gain, alone.drop) == (pytest.approx(1.5), pytest.approx(0))
    assert account["static"].latency_ratio_by_batch == {
        "1": pytest.approx(0.5),
        "3": pytest.approx(0.9),
    }
    arms["dynamic"] = ((0.8, 0.87), 90, 100)  # 3 % faster there is within the noise
    stage.choose(arms)
    assert stage.choice.alone == {}
    stage.choose({**arms, "dynamic": ((0.8, 0.6), 90, 10)}, minimise="size")
    assert stage.choice.alone == {}


def test_even_the_input_can_be_the_fastest_at_one_batch_size(stage: Stage):
    chosen, _ = stage.choose({INPUT: (1.0, 90, 400), "static": ((0.4, 1.3), 90, 100)})
    assert chosen == "static"
    assert stage.choice.alone[3].name == INPUT
    assert stage.choice.alone[3].gain == pytest.approx(1.3)


def test_what_is_near_the_fastest_at_one_batch_size_is_timed_on(stage: Stage):
    arms = {
        INPUT: (1.0, 90, 400),
        "static": ((0.3, 0.3), 90, 100),
        "dynamic": ((0.9, 0.25), 90, 100),
        "slow": ((0.5, 0.5), 90, 100),
    }
    stage.choose(arms)
    assert list(stage.timed[1]) == [INPUT, "static", "dynamic"]


def test_those_close_together_are_timed_again_in_processes_of_their_own(stage: Stage):
    arms = {
        INPUT: (1.0, 90, 400),
        "static": ((0.30, 0.42), 90, 100),
        "dynamic": ((0.42, 0.30), 90, 100),
        "both": ((0.34, 0.34), 90, 100),
        "weight-only": ((0.38, 0.38), 90, 100),
        "wrong": (0.3, 10, 100),
    }
    assert stage.choose(arms)[0] == "both"
    assert [config.workers for config in stage.configs] == [1, 2, 4]
    assert list(stage.timed[1]) == [INPUT, "static", "dynamic", "both", "weight-only"]
    assert list(stage.timed[2]) == [INPUT, "static", "dynamic", "both"]
    assert {size: alone.name for size, alone in stage.choice.alone.items()} == {
        1: "static",
        3: "dynamic",
    }


def test_what_the_last_processes_find_counts(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "lucky": (0.5, 90, 100), "steady": (0.52, 90, 100)}
    assert stage.choose(arms)[0] == "lucky"
    stage.at_last = {"lucky": 1.2}
    chosen, account = stage.choose(arms)
    assert chosen == "steady"
    assert account["lucky"].latency_ratio == pytest.approx(0.6)


@pytest.mark.parametrize(("seconds", "workers"), [(150, [1, 2, 3]), (1000, [1, 2])])
def test_slow_models_are_timed_by_fewer_processes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seconds: int, workers: list[int]
):
    clock = iter(range(0, 10 * seconds, seconds))
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 100), "dynamic": (0.52, 90, 100)}
    assert stage.choose(arms)[0] == "static"
    assert [config.workers for config in stage.configs] == workers
    assert not stage.choice.interrupted


@pytest.mark.parametrize(
    ("free", "groups"),
    [
        (24_000, [[INPUT, "static", "wrong", "dynamic"], [INPUT, "static", "dynamic"]]),
        (
            7_000,
            [[INPUT, "static", "wrong"], [INPUT, "dynamic"], [INPUT, "static", "dynamic"]],
        ),
        (
            10,
            [[INPUT, name] for name in ("static", "wrong", "dynamic", "static", "dynamic")],
        ),
    ],
)
def test_arms_are_timed_in_groups_that_fit_into_memory(
    stage: Stage, free: int, groups: list[list[str]]
):
    stage.free, stage.takes = free, Footprint(500, 0.001)
    arms = {
        INPUT: (1.0, 90, 400),
        "static": ((0.4, 0.6), 90, 100),
        "wrong": (0.5, 10, 100),
        "dynamic": ((0.55, 0.45), 90, 100),
    }
    chosen, account = stage.choose(arms)
    assert [list(names) for names in stage.timed][: len(groups)] == groups
    assert chosen == "static"
    assert stage.choice.alone[3].name == "dynamic"
    assert account["wrong"].latency_ratio == pytest.approx(0.5)


def test_of_a_slow_model_all_are_looked_at_with_one_batch_size_and_the_best_with_all(stage: Stage):
    stage.takes = Footprint(None, 15.0)
    arms = {
        INPUT: (1.0, 90, 400),
        "static": ((0.40, 0.6), 90, 100),
        "dynamic": ((0.41, 0.4), 90, 100),
        "both": ((0.42, 0.2), 90, 100),
    }
    chosen, account = stage.choose(arms)
    assert [config.batch for config in stage.configs][:2] == [(1,), (1, 3)]
    assert [list(names) for names in stage.timed][:2] == [list(arms), [INPUT, "static", "dynamic"]]
    assert chosen == "dynamic"
    assert account["both"].reason.startswith("others were faster at the smallest batch")
    assert account["both"].latency_ratio_by_batch == {"1": pytest.approx(0.42)}
    assert stage.choice.threads == {1: 1, 3: 1}
    chosen, _ = stage.choose({INPUT: (1.0, 90, 400), "wrong": (0.1, 10, 100)})
    assert (chosen, stage.choice.threads) == (None, {1: 1, 3: 1})


def test_for_the_smallest_one_process_times_all(stage: Stage):
    stage.choose({INPUT: (1.0, 90, 400), "static": (0.5, 90, 100)}, minimise="size")
    assert [config.workers for config in stage.configs] == [1]


def test_an_interrupt_leaves_a_choice_by_what_was_measured(stage: Stage):
    stage.workers = 1
    assert stage.choose({INPUT: (1.0, 90, 400), "static": (0.5, 90, 100)})[0] == "static"
    assert stage.choice.interrupted
    assert stage.choice.threads == {1: 1, 3: 1}
    stage.workers = 9
    stage.choose({INPUT: (1.0, 90, 400)})
    assert not stage.choice.interrupted


ARM = st.tuples(st.floats(0.1, 3), st.integers(0, 100), st.integers(1, 500))


@settings(max_examples=40, deadline=None)
@given(
    arms=st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), ARM, min_size=1),
    size=st.integers(1, 500),
    minimise=st.sampled_from(["latency", "size"]),
)
def test_nothing_that_could_be_taken_is_much_better_than_what_is(
    arms: dict[str, tuple[float, int, int]],
    size: int,
    minimise: str,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_task: Task,
):
    every = {INPUT: (1.0, 80, size), **arms}
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(tmp_path_factory.mktemp("choice"), patch, tiny_task)
        chosen, account = stage.choose(every, max_drop=0.1, minimise=minimise)
    assert [name for name, entry in account.items() if entry.kept] == [chosen or INPUT]
    ratio, hits, bytes_ = every[chosen or INPUT]
    allowed = {
        name: arm
        for name, arm in every.items()
        if arm[1] >= 70 and (minimise == "size" or arm[0] <= 1.05)
    }
    assert hits >= 70
    if minimise == "size":
        assert bytes_ == min(arm[2] for arm in allowed.values())
    else:
        assert ratio <= 1.05 * min(arm[0] for arm in allowed.values()) * (1 + 1e-9)


@pytest.fixture(scope="module")
def built(
    trained_onnx: Path, tiny_task: Task, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[str, str]]:
    folder = tmp_path_factory.mktemp("candidates")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "slower_layers", lambda fp32, int8, names, **_: {names[0]})
        made = build(trained_onnx, folder, TaskJudge(tiny_task), QuantizeConfig(samples=64))
    return made.files, made.failures


def test_all_candidates_are_built_small_named_and_loadable(
    built: tuple[dict[str, Path], dict[str, str]], trained_onnx: Path, tiny_task: Task
):
    files, failures = built
    assert failures == {}
    static, dynamic, weights = "int8 (static)", "int8 (dynamic)", "fp32, int8 weights"
    assert {name: operators(onnx.load(path)) for name, path in files.items()} == {
        "static": {"Conv": {static: 6}, "Gemm": {static: 1}},
        "static, slower layers fp32": {"Conv": {"fp32": 1, static: 5}, "Gemm": {static: 1}},
        "dynamic": {"Conv": {dynamic: 6}, "MatMul": {dynamic: 1}},
        "weight-only": {"Conv": {weights: 4, "fp32": 2}, "Gemm": {"fp32": 1}},
    }
    rows = tiny_task.validation.inputs.numpy()
    expected = Session(trained_onnx).run(rows)
    for path in files.values():
        found = Session(path).run(rows)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9
        assert not np.array_equal(found, expected)


def test_calibration_depends_on_the_seed_and_on_nothing_else(
    built: tuple[dict[str, Path], dict[str, str]],
    trained_onnx: Path,
    tiny_task: Task,
    tmp_path: Path,
):
    config, judge = QuantizeConfig(method="static", samples=64), TaskJudge(tiny_task)
    found = {}
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        files = build(trained_onnx, tmp_path / str(seed), judge, config, seed).files
        assert list(files) == ["static"]
        found[seed] = files["static"].read_bytes()
    assert found[0] == built[0]["static"].read_bytes()
    assert found[1] != found[0]


def test_what_cannot_become_int8_is_named_with_the_reason(tmp_path: Path, tiny_task: Task):
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 12, 12]) for name in "xy"
    ]
    graph = helper.make_graph([helper.make_node("Abs", "x", "y")], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "abs.onnx")
    judge = TaskJudge(tiny_task)
    made = build(tmp_path / "abs.onnx", tmp_path, judge, QuantizeConfig())
    assert made.files == {}
    assert made.failures == dict.fromkeys(
        ("dynamic", "weight-only"), "could not be built: no operator became int8"
    )


@pytest.mark.parametrize(("latency", "chosen"), [(0.46, "static"), (0.43, "weight-only")])
def test_what_uses_most_of_the_budget_has_to_be_faster_by_more_than_noise(
    stage: Stage, latency: float, chosen: str
):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 300), "weight-only": (latency, 88, 50)}
    assert stage.choose(arms, max_drop=0.03)[0] == chosen


def test_what_is_hopeless_on_onnxruntime_is_not_tried_elsewhere(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(losses, "saturates", lambda *_: False)
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 83, 100), "dynamic": (0.6, 85, 100)}
    _, account = stage.choose(arms, max_drop=0.02, runtimes=("openvino",))
    assert account["static, openvino"].reason == (
        "not tried: loses 0.0700 on onnxruntime, over 3 times the budget"
    )
    assert account["static, openvino"].drop is None
    assert account["dynamic, openvino"].drop == pytest.approx(0.05)


@pytest.mark.parametrize("saturating", [True, False])
def test_another_runtime_may_keep_what_sums_of_16_bits_lose(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, saturating: bool
):
    monkeypatch.setattr(losses, "saturates", lambda *_: saturating)
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 50, 100)}
    _, account = stage.choose(arms, runtimes=("openvino",))
    assert (account["static, openvino"].drop is not None) == saturating


def test_without_a_budget_every_runtime_is_asked(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 89, 100)}
    _, account = stage.choose(arms, max_drop=0.0, runtimes=("openvino",))
    assert account["static, openvino"].drop == pytest.approx(0.01)


def test_a_reason_does_not_name_the_file_that_was_made_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    real = Losses.of

    def fail(self: Losses, target: Target) -> float:
        if target.runtime == "openvino":
            raise ModelFileError(f"data: the model fails on it: {target.path}: no such operator")
        return real(self, target)

    monkeypatch.setattr(Losses, "of", fail)
    arms = {INPUT: (1.0, 90, 400), "static": (0.5, 90, 100)}
    _, account = stage.choose(arms, runtimes=("openvino",))
    told = "fails on the data: data: the model fails on it: no such operator"
    assert account["static, openvino"].reason == told


def test_a_rewritten_model_that_is_no_faster_is_no_result(stage: Stage):
    arms = {INPUT: (1.0, 90, 400), "fp32, rewritten": (0.98, 90, 380)}
    chosen, account = stage.choose(arms)
    assert chosen is None
    assert account["fp32, rewritten"].reason.startswith("no faster than the input")
    assert stage.choose({**arms, "fp32, rewritten": (0.9, 90, 400)})[0] == "fp32, rewritten"
    assert stage.choose(arms, minimise="size")[0] == "fp32, rewritten"
