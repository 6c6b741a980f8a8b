"""A gate file tells all its errors at once, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import InputError, RecipeError
from compress.measure.config import CheckTiming
from compress.measure.machine import INSTRUCTION_SETS
from compress.recipe.gate_file import is_gate_file, load_gates
from compress.recipe.gate_schema import METRICS, LatencyGate, OnlyOn, OperatorsGate, QualityGate

GOOD = """
models: {fp32: a.onnx, int8: runs/b}
data: mnist
threads: 2
gates:
  - {compare: int8, with: fp32, metric: latency, batch: 4, at_most: 0.5, only_on: [avx512_vnni]}
  - {compare: int8, with: fp32, metric: accuracy, max_drop: 0.01}
  - {compare: int8, metric: quality, at_least: 0.9}
  - {compare: int8, with: fp32, metric: size, at_most: 0.3}
  - {compare: int8, metric: parameters, at_most: 300_000}
  - {compare: int8, with: fp32, metric: operators, precision: int8, at_least: same}
  - {compare: int8, with: fp32, metric: outputs, at_most: 0.02}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text)
    return path


def test_what_is_read(tmp_path: Path):
    file = load_gates(write(tmp_path, GOOD))
    assert file.models == {"fp32": tmp_path / "a.onnx", "int8": tmp_path / "runs/b"}
    assert (file.data, file.timing, len(file.gates)) == ("mnist", CheckTiming(threads=2), 7)
    latency, accuracy, level, _, parameters, operators, _ = file.gates
    assert isinstance(latency, LatencyGate)
    assert (latency.against, latency.batch, latency.at_most) == ("fp32", 4, 0.5)
    assert latency.only_on.instruction_sets == ("avx512_vnni",)
    assert isinstance(accuracy, QualityGate)
    assert accuracy.max_drop == 0.01
    assert level.at_least == 0.9
    assert parameters.limit == ("at most", 300_000)
    assert isinstance(operators, OperatorsGate)
    assert operators.limit == ("at least", "same")


def test_the_example_of_the_readme_is_valid(tmp_path: Path):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = text.partition("# gates.yaml")[2].partition("```")[0]
    assert len(load_gates(write(tmp_path, f"#{example}")).gates) == 7


def test_models_of_the_command_line(tmp_path: Path):
    text = "gates: [{compare: candidate, with: baseline, metric: size, at_most: 1}]"
    path = write(tmp_path, text)
    assert load_gates(path).models == {}  # alone it may be validated without them
    given = {"baseline": Path("x"), "candidate": Path("y")}
    assert load_gates(path, given).models == given
    with pytest.raises(RecipeError) as stop:
        load_gates(path, {})
    assert stop.value.errors == [
        f"gates[0].{key}: no model named '{name}'. Known: none. '{name}' is what "
        "`compress check BASELINE CANDIDATE` names."
        for key, name in (("compare", "candidate"), ("with", "baseline"))
    ]


def test_a_gate_on_quality_needs_data_once_it_is_run(tmp_path: Path):
    path = write(tmp_path, "models: {a: a, b: b}\n" + GATE.format("accuracy, max_drop: 0.1"))
    assert load_gates(path)
    assert load_gates(path, {}, data="mnist").data == "mnist"
    with pytest.raises(RecipeError, match=r"gates\[0\]: accuracy needs data; name the task in"):
        load_gates(path, {})


GATE = "gates: [{{compare: a, with: b, metric: {}}}]"
ALONE = "gates: [{{compare: a, metric: {}}}]"
SETS = ", ".join(INSTRUCTION_SETS)
PRECISIONS = (
    "'fp32', 'fp16', 'bf16', 'int8', 'int8 (static)', 'int8 (dynamic)', 'int8 weights' or "
    "'int4 weights'"
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dta: mnist\n" + ALONE.format("size, at_most: 9"), "no key 'dta'. Known: models, data, "
         "gates, margin, threads, length, rounds, block_ms, warm_up_s, warm_up_calls, "
         "warm_up_cap_s, affinity, timeout. Did you mean 'data'?"),
        ("margin: 2\n" + ALONE.format("size, at_most: 9"),
         "margin: Input should be less than 1, found 2."),
        ("data: mnits\n" + ALONE.format("size, at_most: 9"), "data: No task named 'mnits'. Known: "
         "co2, kjv, mnist, reviews, spoken-digits. Did you mean 'mnist'?"),
        ("gates: []", "gates: expected a list of gates, such as [{compare: int8, with: fp32, "
         "metric: size, at_most: 0.3}]."),
        ("gates: [3]", "gates[0]: expected a mapping with compare and metric, found 3."),
        (GATE.format("latncy, at_most: 1"), f"gates[0].metric: no metric 'latncy'. Known: "
         f"{', '.join(METRICS)}; a task of your own may have others. Did you mean 'latency'?"),
        (GATE.format("latency"), "gates[0].at_most: is missing."),
        (GATE.format("latency, at_most: 0"),
         "gates[0].at_most: Input should be greater than 0, found 0."),
        (GATE.format("latency, at_most: 1, batches: 2"), "gates[0]: no setting 'batches'. Known: "
         "compare, with, metric, only_on, batch, at_most. Did you mean 'batch'?"),
        (ALONE.format("latency, at_most: 1"),
         "gates[0]: latency is compared `with` another model; name it."),
        ("gates: [{compare: a, with: a, metric: size, at_most: 1}]",
         "gates[0]: 'a' is compared with itself."),
        (GATE.format("latency, at_most: 1, only_on: avx512_vni"), "gates[0].only_on."
         f"instruction_sets: no instruction set 'avx512_vni'. Known: {SETS}. "
         "Did you mean 'avx512_vnni'?"),
        (GATE.format("size, at_most: 1, only_on: {architectur: x}"), "gates[0]: no setting "
         "'only_on.architectur'. Known: instruction_sets, any_instruction_set, architecture, "
         "versions. Did you mean 'architecture'?"),
        (GATE.format("size, at_most: 1, only_on: {versions: {onnxruntime: new}}"),
         "gates[0].only_on.versions: expected versions such as '>=1.22' for onnxruntime, found "
         "{'onnxruntime': 'new'}."),
        (GATE.format("size, at_most: much"),
         "gates[0].at_most: expected a number from 0 or same, found 'much'."),
        (GATE.format("size, at_most: -1"),
         "gates[0].at_most: expected a number from 0 or same, found -1."),
        (GATE.format("size"), "gates[0]: expected one of at_most, at_least, found none."),
        (GATE.format("accuracy, max_drop: 1, at_least: 1"),
         "gates[0]: expected one of max_drop, at_most, at_least, found max_drop and at_least."),
        (ALONE.format("macro_f1, at_least: .nan"),
         "gates[0].at_least: Input should be a finite number, found nan."),
        (ALONE.format("accuracy, max_drop: 1"),
         "gates[0]: max_drop is a drop from another model; name it in `with`."),
        (GATE.format("accuracy, at_least: 1"),
         "gates[0]: `with` and relative go with max_drop; a bound on the metric has none."),
        (ALONE.format("size, at_most: 0.3"),
         "gates[0]: 0.3 is a share; name the model it is a share of in `with`."),
        (ALONE.format("size, at_most: same"), "gates[0]: same as which model? Name it in `with`."),
        (GATE.format("operators, precision: in8, at_least: same"),
         f"gates[0].precision: Input should be {PRECISIONS}, found 'in8'."),
        (GATE.format("operators, precision: int8, at_least: 3"),
         "gates[0]: with another model the bound is same; a number stands alone."),
        (ALONE.format("size, at_most: 9").replace("a,", "aa,"),
         "gates[0].compare: no model named 'aa'. Known: a, b. Did you mean 'a'?"),
    ],
)  # fmt: skip
def test_every_error_is_one_line(text: str, error: str, tmp_path: Path):
    path = write(tmp_path, "models: {a: a.onnx, b: b.onnx}\n" + text)
    with pytest.raises(RecipeError) as stop:
        load_gates(path)
    assert stop.value.errors == [error]
    assert str(stop.value) == f"{path}: {error}"


def test_all_errors_are_told_at_once(tmp_path: Path):
    text = "models: {a: 3}\nthreads: 0\nwarm_up_cap_s: -1\n"
    text += "gates: [{compare: b, metric: size, at_most: 9}, 3]"
    with pytest.raises(RecipeError) as stop:
        load_gates(write(tmp_path, text))
    assert [line.partition(":")[0] for line in stop.value.errors] == [
        "models.a",
        "threads",
        "warm_up_cap_s",
        "gates[1]",
        "gates[0].compare",
    ]


def test_what_is_no_gate_file(tmp_path: Path):
    with pytest.raises(InputError, match="No such file or directory; expected a gate file"):
        load_gates(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="not YAML"):
        load_gates(write(tmp_path, "gates: ["))
    with pytest.raises(RecipeError, match="expected a mapping with models and gates, found list"):
        load_gates(write(tmp_path, "[1]"))
    assert is_gate_file(write(tmp_path, GOOD))
    assert not is_gate_file(write(tmp_path, "task: mnist\nstages: [train]"))


HERE = {
    "instruction_sets": ["avx2", "avx512_vnni"],
    "architecture": "x86_64",
    "versions": {"onnxruntime": "1.22.1"},
}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, ""),
        ({"instruction_sets": ("avx2", "avx512_vnni")}, ""),
        ({"instruction_sets": ("avx2", "amx_int8")}, "this processor has no amx_int8"),
        ({"any_instruction_set": ("avx_vnni", "avx512_vnni")}, ""),
        ({"any_instruction_set": ("avx_vnni", "asimddp")},
         "this processor has none of avx_vnni, asimddp"),
        ({"architecture": "aarch64"}, "this is x86_64, not aarch64"),
        ({"versions": {"onnxruntime": ">=1.22,<2"}}, ""),
        ({"versions": {"onnxruntime": ">=1.23"}}, "onnxruntime is 1.22.1, not >=1.23"),
        ({"versions": {"torch": ">=2"}}, "torch is not installed, not >=2"),
    ],
)  # fmt: skip
def test_which_machine_is_meant(settings: dict[str, object], reason: str):
    assert OnlyOn.model_validate(settings).refusal(HERE) == reason
