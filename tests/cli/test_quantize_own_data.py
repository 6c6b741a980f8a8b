"""`compress quantize` on any ONNX file, with the user's own inputs and metric."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_graphs import save, value

from compress import cli
from compress.artifact import load_artifact
from compress.data.task import Task
from compress.measure import latency
from compress.quantization import best, timing
from compress.report import load_report
from compress.runtime.interface import Target
from compress.runtime.onnxruntime import Session

QUICK = [
    *["benchmark.batch=[1,4]", "benchmark.threads=1", "benchmark.workers=2"],
    *["benchmark.rounds=2", "benchmark.block_ms=0.1", "samples=16"],
]


@dataclass
class Result:
    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_onnx: Path,
    tiny_task: Task,
    tmp_path: Path,
) -> Call:
    """The command in a folder with `net.onnx` and `rows.npz`."""
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(trained_onnx.read_bytes())
    np.savez("rows.npz", x=tiny_task.validation.inputs.numpy())

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["compress", "quantize", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return Result(int(stop.value.code or 0), printed.out, printed.err)

    return run


def test_a_bare_file_and_inputs_without_labels(call: Call):
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--minimise", "size", "--out", "q",
                 "--max-drop", 1)  # fmt: skip
    assert (found.code, found.err) == (0, "")
    assert "top-1 agreement with the fp32 model's own outputs is what was judged" in found.out
    assert re.search(r"^quality: top-1 agreement, on 12 test samples$", found.out, re.M)
    assert sorted(path.name for path in Path("q").iterdir()) == [
        *["benchmark.json", "calibration.npz", "card.json", "junit.xml", "model.onnx"],
        *["report.html", "report.json", "report.md"],
    ]
    card = load_artifact(Path("q")).card
    made_for = card.evidence["made_for"]
    assert (made_for["runtime"], made_for["threads_by_batch"]) == (
        "onnxruntime",
        {"1": 1, "4": 1},
    )
    assert made_for["shapes_by_batch"]["4"] == {"input": [4, 1, 12, 12]}
    names = {entry["name"] for entry in card.evidence["candidates"]}
    assert {"the input", "static", "dynamic", "weight-only"} <= names
    report = load_report(Path("q/report.json"))
    assert (report.baseline, report.final) == ("net", "q")
    assert report.comparison("q", "quality") is not None
    assert report.arm("net").quality is not None
    rows = np.load("rows.npz")["x"]
    assert Session(Path("q/model.onnx")).run(rows).shape == (40, 4)


def test_a_file_for_one_batch_size_stands_beside(call: Call, monkeypatch: pytest.MonkeyPatch):
    choose = best.choose

    def with_another(source: Path, *rest: object, **settings: Any) -> best.Choice:
        found = choose(source, *rest, **settings)
        other = best.Alone("the input", Target(source), 1, 1.25, 0.0)
        return replace(found, alone={4: other})

    monkeypatch.setattr(best, "choose", with_another)
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--out", "q", "--max-drop", 1,
                 "--minimise", "size")  # fmt: skip
    told = "For calls of 4 alone, the input is 1.25 × as fast on onnxruntime: model-batch-4.onnx."
    assert told in found.out
    assert told in Path("q/report.md").read_text()
    artifact = load_artifact(Path("q"))
    assert artifact.card.evidence["for_one_batch_size"]["4"]["file"] == "model-batch-4.onnx"
    assert Path("q/model-batch-4.onnx").read_bytes() == Path("net.onnx").read_bytes()
    assert "model-batch-4.onnx" in artifact.card.files


def test_fp16_halves_the_file_and_the_card_says_so(call: Call):
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--minimise", "size", "--out", "q",
                 "--agreement", "error", "method=fp16")  # fmt: skip
    assert (found.code, found.err) == (0, "")
    assert re.search(r"^  kept    fp16 .* smallest within the budget$", found.out, re.M)
    assert re.search(r"^q +fp16 .* ← final|^q ← final", found.out, re.M)
    card = load_artifact(Path("q")).card
    assert card.evidence["chosen"] == "fp16"
    assert card.evidence["operators"] == {"Conv": {"fp16": 6}, "Gemm": {"fp16": 1}}
    before, after = card.evidence["size_bytes"]
    assert after < 0.6 * before
    assert load_report(Path("q/report.json")).arm("q").precision == "fp16"
    rows = np.load("rows.npz")["x"]
    np.testing.assert_allclose(
        Session(Path("q/model.onnx")).run(rows), Session(Path("net.onnx")).run(rows), atol=0.05
    )
    again = call("q/model.onnx", "--data", "npz:rows.npz", "--out", "r", "method=fp16")
    assert (again.code, again.out) == (1, "")
    assert again.err == (
        "compress: q/model.onnx: computes in fp16 already (6 Conv, 1 Gemm); give a model in fp32, "
        "or use method=best for int8.\n"
    )
    assert not Path("r").exists()


def test_the_users_metric_decides(call: Call, tiny_task: Task):
    split = tiny_task.test
    np.savez("labelled.npz", x=split.inputs.numpy(), y=split.targets.numpy())
    Path("mine.py").write_text(
        "import numpy as np\n"
        "data = np.load('labelled.npz')\n"
        "def accuracy(run): return (run({'x': data['x']})[0].argmax(1) == data['y']).mean()\n"
    )
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--metric", "mine.py:accuracy",
                 "--minimise", "size", "--max-drop", 1, "--out", "q", "--json")  # fmt: skip
    assert (found.code, found.err) == (0, "")
    card: dict[str, Any] = json.loads(found.out)
    expected = Session(Path("q/model.onnx")).run(split.inputs.numpy()).argmax(axis=1)
    quality = card["metrics"]["test"]
    assert quality["value"] == pytest.approx((expected == split.targets.numpy()).mean())
    assert (quality["metric"], quality["interval"]) == ("accuracy", None)
    page = Path("q/report.html").read_text()
    assert "takes no `part`" in page


def test_where_nothing_is_better_the_model_stays_and_the_exit_code_says_so(call: Call):
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--agreement", "error",
                 "--max-drop", 0, "method=best", "--minimise", "size", "--out", "q")  # fmt: skip
    assert found.code == 1
    assert found.err == (
        "compress: no quantized model was faster or smaller within the drop: the fp32 model "
        "stays.\n"
    )
    assert Path("q/model.onnx").read_bytes() == Path("net.onnx").read_bytes()
    assert re.search(r"^  kept    the input", found.out, re.M)
    assert load_report(Path("q/report.json")).final == "net"


def test_an_interrupt_leaves_the_best_so_far(call: Call, monkeypatch: pytest.MonkeyPatch):
    run_worker, calls = latency.run_worker, []

    def stop_behind_the_look_at_all(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:  # the first tells how much memory the model takes
            raise KeyboardInterrupt
        return run_worker(*arguments)

    monkeypatch.setattr(latency, "run_worker", stop_behind_the_look_at_all)
    monkeypatch.setattr(timing, "_NEAR", 1e9)
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--max-drop", 1, "--out", "q")
    assert (found.code, found.err) == (
        1,
        "compress: interrupted: q holds the best that was found until then.\n",
    )
    card = load_artifact(Path("q")).card
    assert card.evidence["interrupted"]
    assert all(entry["latency_ratio"] for entry in card.evidence["candidates"])
    assert not Path("q/report.json").exists()


def test_the_users_own_torch_model(call: Call):
    Path("net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Linear(144, 4)\n"
        "    def forward(self, picture):\n"
        "        return self.body(picture.flatten(1))\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Net()\n"
    )
    found = call("net.py:make", *QUICK, "--data", "npz:rows.npz", "--minimise", "size",
                 "--max-drop", 1)  # fmt: skip
    assert (found.code, found.err) == (0, "")
    folder = Path("runs/quantize-make")
    assert load_report(folder / "report.json").baseline == "make"
    (given,) = onnx.load(folder / "model.onnx").graph.input
    assert given.name == "picture"
    wrong = call("net.py:absent", "--data", "npz:rows.npz")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "model 'net.py:absent': AttributeError" in wrong.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data: name a task, npz:FILE or file.py:factory; an ONNX file does not say what"),
        (["--data", "rows.npz"], "No task named 'rows.npz'. Known: "),
        (["--data", "npz:absent"], "npz:absent: no such file; expected one by numpy.savez."),
        (["--data", "tiny:task", "--metric", "m.py:f"], "--metric: task 'tiny:task' has its own"),
        (["--data", "npz:rows.npz", "--agreement", "top"], "--agreement: expected auto, top-1 or"),
        (
            ["--data", "npz:rows.npz", "benchmark.batches=3"],
            "settings: benchmark: no setting 'batches'. Known",
        ),
        (["--data", "tiny:task", "--agreement", "error"], "--agreement: task 'tiny:task' has its"),
        (
            ["--data", "npz:rows.npz", "--agreement", "error", "--metric", "m.py:f"],
            "--agreement: --metric says what is right; leave one of them out.",
        ),
        (["--data", "npz:rows.npz", "--lower-is-better"], "--lower-is-better: goes with --metric"),
        (["--data", "npz:rows.npz", "benchmark.length=3"], "benchmark.length: the data has len"),
        (["--data", "npz:rows.npz", "benchmark.profile=true"], "benchmark.profile: `compress pro"),
        (
            ["--data", "npz:rows.npz", "--runtime", "torch"],
            "--runtime: expected openvino or openvino-bf16, found",
        ),
    ],
)
def test_bad_input(call: Call, arguments: list[str], message: str):
    found = call("net.onnx", *arguments, "--out", "q")
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert message in found.err
    assert not Path("q").exists()


def test_openvino_is_tried_beside_onnxruntime(call: Call):
    pytest.importorskip("openvino")
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--runtime", "openvino",
                 "--max-drop", 1, "--out", "q")  # fmt: skip
    assert found.code in (0, 1)
    card = load_artifact(Path("q")).card
    names = {entry["name"] for entry in card.evidence["candidates"]}
    assert {"the input", "the input, openvino", "static", "static, openvino"} <= names
    assert (card.evidence["made_for"]["runtime"] == "openvino") == (
        card.evidence["chosen"].endswith(", openvino")
    )
    Session(Path("q/model.onnx"))


def test_what_other_processors_would_answer_is_told(call: Call, monkeypatch: pytest.MonkeyPatch):
    settings = ["net.onnx", *QUICK, "--data", "npz:rows.npz", "method=static", "--minimise", "size",
                "--max-drop", 1]  # fmt: skip
    found = call(*settings, "--out", "q")
    evidence = load_artifact(Path("q")).card.evidence["portability"]
    assert (
        "On x86 CPUs without VNNI, where sums of 8-bit products are cut off, the validation drop "
        f"would be {evidence['without_vnni']['drop']:+.4f} by emulation."
    ) in found.out
    assert evidence["without_vnni"]["nodes_at_risk"]
    facts = {"architecture": "x86_64", "instruction_sets": ["avx2"]}
    monkeypatch.setattr("compress.pipeline.portability.machine", lambda: facts)
    assert "without VNNI" not in call(*settings, "--out", "r").out


def test_a_dynamic_model_is_told_of_other_processors_too(
    call: Call, monkeypatch: pytest.MonkeyPatch
):
    random = np.random.default_rng(0)
    weights = {"w": random.uniform(-1, 1, (24, 64)), "v": random.uniform(-1, 1, (64, 12))}
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        onnx.helper.make_node("Relu", ["a"], ["b"], "bend"),
        onnx.helper.make_node("MatMul", ["b", "v"], ["y"], "two"),
    ]
    constants = {name: values.astype(np.float32) for name, values in weights.items()}
    save(Path("mlp.onnx"), nodes, [value("x", ["n", 24])], [value("y", ["n", 12])], constants)
    np.savez("mlp.npz", x=random.uniform(0, 1, (60, 24)).astype(np.float32))
    machine = {"architecture": "x86_64", "instruction_sets": ["avx2", "avx_vnni"]}
    monkeypatch.setattr("compress.pipeline.portability.machine", lambda: machine)
    found = call("mlp.onnx", *QUICK, "--data", "npz:mlp.npz", "method=dynamic", "--minimise",
                 "size", "--agreement", "error", "--max-drop", 0.05, "--out", "q")  # fmt: skip
    assert (found.code, found.err) == (0, "")
    evidence = load_artifact(Path("q")).card.evidence["portability"]["without_vnni"]
    assert evidence["nodes_at_risk"].keys() == {"one", "two"}
    assert evidence["not_emulated"] == []
    assert evidence["drop"] > 0.05
    assert (
        "On x86 CPUs without VNNI, where sums of 8-bit products are cut off, the validation rise "
        f"would be {evidence['drop']:+.4f} by emulation. Choose one on such a CPU."
    ) in found.out


def test_a_model_that_is_quantized_already_is_told_so(call: Call):
    call("net.onnx", *QUICK, "--data", "npz:rows.npz", "method=dynamic", "--minimise", "size",
         "--max-drop", 1, "--out", "q")  # fmt: skip
    again = call("q/model.onnx", "--data", "npz:rows.npz", "--out", "r")
    assert again.code == 1
    assert re.search(r"q/model\.onnx: is already quantized \(.*6 Conv.* in integers\)", again.err)
    assert onnx.load("q/model.onnx").graph.node
    assert not Path("r").exists()


def test_a_budget_that_the_test_split_misses_is_exit_code_1(call: Call):
    Path("mine.py").write_text(
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from compress.runtime.onnxruntime import Session\n"
        "rows = np.load('rows.npz')['x']\n"
        "expected = Session(Path('net.onnx')).run(rows)\n"
        "def right(run, part):\n"
        "    same = np.abs(run(rows)[0] - expected).max() < 1e-4\n"
        "    return 1.0 if same or part == 'validation' else 0.5\n"
    )
    found = call("net.onnx", *QUICK, "--data", "npz:rows.npz", "--metric", "mine.py:right",
                 "--minimise", "size", "--out", "q")  # fmt: skip
    assert (found.code, found.err) == (1, "")
    assert "budget missed: The test drop is over the budget of 0.01" in found.out
    assert load_report(Path("q/report.json")).final == "q"
