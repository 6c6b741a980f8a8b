"""`check` on latencies that are given, and once on a model that really does more work."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.artifact import wrap_onnx
from compress.errors import InputError, ShapeMismatch
from compress.gate import LOOKS
from compress.measure.config import BenchConfig
from compress.measure.latency import CONTROL, Measured
from compress.pipeline import check as gate
from compress.pipeline import timing
from compress.pipeline.check import CheckConfig, check
from compress.pipeline.find import find_model
from compress.report import load_report, render_html, render_markdown
from compress.report.schema import Comparison, Report


def write(path: Path, products: int = 1, width: int = 4, name: str = "v0") -> Path:
    """So many products of (n, width) with one matrix."""
    given, made = (
        helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", width])
        for each in (name, f"v{products}")
    )
    weight = numpy_helper.from_array(np.eye(width, dtype=np.float32), "w")
    inputs = [name, *(f"v{i}" for i in range(1, products))]
    nodes = [helper.make_node("MatMul", [x, "w"], [f"v{i + 1}"]) for i, x in enumerate(inputs)]
    graph = helper.make_graph(nodes, "g", [given], [made], [weight])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


class Machine:
    """Stands for `measure`: ratios to the baseline that each worker would find."""

    def __init__(self, candidate: float, control: float = 1.0, spread: float = 0.002) -> None:
        self.ratios = {gate.BASELINE: 1.0, gate.CANDIDATE: candidate, CONTROL: control}
        self.spread, self.asked = spread, list[tuple[int, int]]()
        self.configs = list[BenchConfig]()

    def measure(
        self, files: dict[str, Path], config: BenchConfig, *, first: int, **_: object
    ) -> Measured:
        self.asked.append((first, config.workers))
        self.configs.append(config)
        # Each worker strays to one side and the other by turns, of ever different size.
        places = np.arange(first, first + config.workers)
        strays = self.spread * (1 + places / 100) * np.where(places % 2, 1, -1)
        blocks = {}
        for batch in config.batch:
            for arm, ratio in self.ratios.items():
                stray = strays if arm != gate.BASELINE else 0 * strays
                rows = 1e6 * ratio * np.exp(stray)[:, None] * np.ones((1, config.rounds))
                blocks[arm, batch, config.threads[0], config.lengths[0]] = rows
        return Measured(blocks, dict.fromkeys(blocks, config.workers))


def run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: object
) -> Report:
    monkeypatch.setattr(timing, "measure", machine.measure)
    model = write(folder / "a.onnx")
    return check(model, model, CheckConfig.model_validate(settings))


def latency(report: Report, batch: int = 1) -> Comparison:
    entry = report.comparison(gate.CANDIDATE, "latency", batch)
    assert entry is not None
    return entry


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.2, "regressed"), (1.01, "ok"), (0.8, "improved")]
)
def test_a_clear_case_takes_eight_workers(
    ratio: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine = Machine(ratio)
    report = run(machine, monkeypatch, tmp_path)
    assert machine.asked == [(0, 8)]
    assert latency(report).verdict == verdict
    assert report.gate is not None
    assert (report.gate.verdict, report.gate.workers, report.gate.fit) == (verdict, 8, True)
    assert report.gate.explanation.startswith(f"{verdict}: latency at batch 1 {ratio:.2f}")


def test_what_cannot_be_told_takes_all_looks_and_is_inconclusive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine = Machine(1.05)
    report = run(machine, monkeypatch, tmp_path)
    assert machine.asked == [(0, 8), (8, 4), (12, 6)]
    assert latency(report).verdict == "inconclusive"
    assert report.gate.verdict == "inconclusive"
    assert latency(report).n == LOOKS[-1].workers


def test_a_machine_that_differs_from_itself_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report = run(Machine(1.5, control=1.04), monkeypatch, tmp_path, batch=(1, 8))
    assert not report.gate.fit
    assert [latency(report, batch).verdict for batch in (1, 8)] == ["inconclusive"] * 2
    assert "the baseline against itself came out at 1.040 ×" in report.gate.explanation
    assert report.gate.control == {
        1: pytest.approx(1.04, abs=0.002),
        8: pytest.approx(1.04, abs=0.002),
    }


def test_a_wider_margin_lets_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = run(Machine(1.2), monkeypatch, tmp_path, margin=0.3, batch=(1, 8), relative=True)
    assert report.gate.verdict == "ok"
    model = tmp_path / "a.onnx"
    command = f"compress check {model} {model} --margin 0.3 --relative --batch 1 --batch 8"
    assert report.command == command


def test_how_latencies_are_taken_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    machine = Machine(1.0)
    cpu = min(os.sched_getaffinity(0))
    settings = {"affinity": cpu, "warm_up_s": 0.5, "warm_up_cap_s": 2, "timeout": 9.5, "rounds": 4}
    report = run(machine, monkeypatch, tmp_path, **settings)
    (config,) = machine.configs
    assert config == BenchConfig(
        batch=(1,),
        threads=(1,),
        workers=8,
        rounds=4,
        block_ms=15.0,
        warm_up_s=0.5,
        warm_up_calls=10,
        warm_up_cap_s=2.0,
        affinity=(cpu,),
        timeout=9.5,
        limit_s=None,
    )
    assert report.command.endswith(
        f" rounds=4 warm_up_s=0.5 warm_up_cap_s=2.0 'affinity=[{cpu}]' timeout=9.5"
    )


def test_what_this_machine_cannot_keep_is_told_before_anything_is_read():
    with pytest.raises(InputError, match=r"affinity: CPUs \[9999\] are not among those allowed"):
        check(Path("nowhere"), Path("nowhere"), CheckConfig(affinity=(9999,)))


def test_costs_are_exact_and_have_a_margin_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "measure", Machine(1.0).measure)
    small, large = write(tmp_path / "small.onnx"), write(tmp_path / "large.onnx", products=2)
    with pytest.raises(ShapeMismatch, match="take different inputs"):
        check(small, write(tmp_path / "other.onnx", name="x"), CheckConfig())
    more = check(small, large, CheckConfig())
    size = more.comparison(gate.CANDIDATE, "size")
    assert (size.verdict, more.gate.verdict) == ("regressed", "regressed")
    assert size.ratio == pytest.approx(large.stat().st_size / small.stat().st_size)
    assert more.gate.explanation.startswith(f"regressed: size {size.ratio:.3f} ×")
    assert check(small, large, CheckConfig(size_margin=1.0)).gate.verdict == "ok"
    assert check(large, small, CheckConfig()).gate.verdict == "improved"


def test_int8_that_is_gone_is_a_regression(
    trained_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from compress.quantization.dynamic import quantize_dynamic_int8
    from compress.quantization.rewriting.simplify import simplify

    monkeypatch.setattr(timing, "measure", Machine(1.0).measure)
    simplify(trained_onnx, tmp_path / "prepared.onnx")
    quantize_dynamic_int8(tmp_path / "prepared.onnx", tmp_path / "int8.onnx")
    report = check(tmp_path / "int8.onnx", trained_onnx, CheckConfig(size_margin=100))
    fallen = [entry for entry in report.comparisons if entry.what == "int8"]
    assert {entry.operator: entry.verdict for entry in fallen} == {
        "Conv": "regressed",
        "Gemm": "ok",  # the same product, which was a MatMul in int8
        "MatMul": "regressed",
    }
    assert sum(entry.difference for entry in fallen) == report.arms[0].int8_nodes > 0
    assert "; MatMul 1 int8 (dynamic) → –" in report.gate.explanation
    assert "| MatMul operators | 1 int8 (dynamic) | – | 1 fell |" in render_markdown(report)
    same = check(tmp_path / "int8.onnx", tmp_path / "int8.onnx", CheckConfig())
    assert [entry.operator for entry in same.comparisons if entry.what == "int8"] == [None]
    back = check(trained_onnx, tmp_path / "int8.onnx", CheckConfig(size_margin=100))
    assert back.comparison(gate.CANDIDATE, "int8") is None


def test_quality_is_compared_on_the_same_samples(
    trained_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "measure", Machine(1.0).measure)
    model = onnx.load(trained_onnx)
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    (bias,) = (entry for entry in model.graph.initializer if entry.name == head.input[2])
    values = numpy_helper.to_array(bias) + np.array([50, 0, 0, 0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    report = check(trained_onnx, tmp_path / "wrong.onnx", CheckConfig(), data="tiny:task")
    entry = report.comparison(gate.CANDIDATE, "quality")
    assert (entry.verdict, report.gate.verdict) == ("regressed", "regressed")
    assert "accuracy drop +0." in report.gate.explanation
    told = {entry.metric: entry for entry in report.further}
    assert set(told) == {"cross_entropy", "macro_f1"}
    for name, figures in told.items():
        values = tuple(arm.quality.details[name] for arm in report.arms)
        assert figures.values == pytest.approx(values)
        low, high = figures.interval
        assert low < figures.difference < high
    assert told["macro_f1"].difference > 0
    assert told["cross_entropy"].difference > 0
    assert "| Macro f1, test split |" in render_markdown(report)
    assert "told, not judged" in render_html(report)
    same = check(trained_onnx, trained_onnx, CheckConfig(max_drop=0.001), data="tiny:task")
    assert same.comparison(gate.CANDIDATE, "quality").verdict == "inconclusive"
    assert "To prove a drop below 0.001" in same.gate.explanation
    share = CheckConfig(max_drop=0.5, relative=True)
    limit = check(trained_onnx, trained_onnx, share, data="tiny:task").gate
    assert limit.max_drop == pytest.approx(0.5 * same.arms[0].quality.value)
    assert limit.verdict == "ok"


def test_the_pages_open_with_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = run(Machine(1.2), monkeypatch, tmp_path)
    page, text = render_html(report), render_markdown(report)
    assert "✕ Regressed" in page
    assert "Latency, batch 1" in page
    assert "❌ **Regressed. The candidate: " in text
    assert "| Latency, batch 1 | 1.00 ms | 1.20 ms |" in text


def test_what_a_path_may_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = run(Machine(1.0), monkeypatch, tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    arms = [arm.model_copy(update={"file": f"{arm.name}.onnx"}) for arm in report.arms]
    stored = report.model_copy(update={"arms": arms, "final": gate.CANDIDATE})
    (folder / "report.json").write_text(stored.model_dump_json())
    assert load_report(folder / "report.json").gate == stored.gate
    with pytest.raises(InputError, match=r"candidate\.onnx is not there.*not compared"):
        find_model(folder)
    model = write(folder / "candidate.onnx", products=3)
    for path in (model, folder, folder / "report.json"):
        assert find_model(path).onnx == wrap_onnx(model).onnx
    with pytest.raises(InputError, match="On a first run"):
        find_model(tmp_path / "nowhere")


def test_more_work_is_found_by_real_workers(tmp_path: Path):
    fast = write(tmp_path / "fast.onnx", products=2, width=256)
    slow = write(tmp_path / "slow.onnx", products=6, width=256)
    config = CheckConfig(rounds=4, block_ms=1.0, margin=0.3, batch=(16,))
    report = check(fast, slow, config, out=tmp_path / "out")
    entry = latency(report, 16)
    assert entry.verdict == "regressed"
    assert math.isclose(entry.ratio, 3, rel_tol=0.5)
    assert '<failure message="Latency, batch 16' in (tmp_path / "out" / "junit.xml").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "junit.xml",
        "benchmark.json",
    }
