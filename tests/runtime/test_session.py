"""Sessions on onnxruntime: results against numpy, and one line for whatever does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.errors import DeviceUnavailable, ModelFileError, ShapeMismatch
from compress.runtime.onnxruntime import Session, check_device

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def write(path: Path, batch: int | str = "n", kind: int = TensorProto.FLOAT) -> Path:
    """x (batch, 4) → the product with WEIGHT, and the largest of each row beside it."""
    x = helper.make_tensor_value_info("x", kind, [batch, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    top = helper.make_tensor_value_info("top", TensorProto.FLOAT, [batch, 1])
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
        helper.make_node("ReduceMax", ["y", "axes"], ["top"], keepdims=1),
    ]
    tensors = [
        numpy_helper.from_array(WEIGHT, "w"),
        numpy_helper.from_array(np.array([1]), "axes"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y, top], tensors)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def write_two_inputs(path: Path) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", "ab", "c")], "g", values[:2], values[2:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("session") / "model.onnx")


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), batch_size=st.integers(1, 50), threads=st.sampled_from([1, 2]))
def test_any_batch_size_gives_what_numpy_gives(
    model: Path, rows: int, batch_size: int, threads: int
):
    inputs = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    found = Session(model, threads=threads).run(inputs, batch_size)
    assert found.shape == (rows, 3)
    np.testing.assert_allclose(found, inputs @ WEIGHT, rtol=1e-5, atol=1e-5)


def test_every_output(model: Path):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    y, top = Session(model).every_output((x,))
    np.testing.assert_allclose(y, x @ WEIGHT, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(top, y.max(1, keepdims=True))
    with pytest.raises(ShapeMismatch, match="takes x"):
        Session(model).every_output((x[:, :2],))


def test_threads_and_spinning_reach_onnxruntime(model: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    real = onnxruntime.InferenceSession

    def remember(*args: object, **kwargs: object) -> object:
        seen.append((args[1], kwargs["providers"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    Session(model, "cpu", 3)
    ((options, providers),) = seen
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert providers == ["CPUExecutionProvider"]


def test_a_bound_call_computes_what_run_computes(model: Path, monkeypatch: pytest.MonkeyPatch):
    outputs = []
    real = onnxruntime.InferenceSession.run_with_iobinding

    def remember(session: object, binding: onnxruntime.IOBinding) -> None:
        real(session, binding)
        outputs.append([value.numpy().copy() for value in binding.get_outputs()])

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", remember)
    session = Session(model)
    inputs = session.example(6)
    call = session.bind(inputs)
    call()
    call()
    expected = session.run(inputs)
    assert len(outputs) == 3
    for product, top in outputs:
        np.testing.assert_array_equal(product, expected)
        np.testing.assert_array_equal(top, expected.max(axis=1, keepdims=True))


def test_a_bound_call_keeps_its_output_buffers(model: Path, monkeypatch: pytest.MonkeyPatch):
    places = []
    real = onnxruntime.InferenceSession.run_with_iobinding

    def remember(session: object, binding: onnxruntime.IOBinding) -> None:
        real(session, binding)
        places.append([value.data_ptr() for value in binding.get_outputs()])

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", remember)
    session = Session(model)
    call = session.bind(session.example(6))
    call()
    call()
    assert places[0] == places[1] == places[2]


@pytest.mark.parametrize(("declared", "kept"), [(["n", 4], False), ([], True), (None, True)])
def test_a_bound_call_runs_a_file_that_declares_another_rank_than_it_gives(
    tmp_path: Path, declared: list | None, kept: bool, monkeypatch: pytest.MonkeyPatch
):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "m"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Squeeze", ["r"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx")
    inputs = np.ones((3, 4, 2), np.float32)
    assert session.run(inputs).shape == (3, 4, 2)  # which onnxruntime lets pass
    allocated = []
    real = onnxruntime.IOBinding.bind_output
    monkeypatch.setattr(
        onnxruntime.IOBinding, "bind_output", lambda *given: (allocated.append(1), real(*given))
    )
    call = session.bind(inputs)
    call()
    call()
    assert len(allocated) == (1 if kept else 3)


def test_a_bound_batch_need_not_be_contiguous(model: Path):
    inputs = np.random.default_rng(3).standard_normal((8, 4)).astype(np.float32)[::2]
    assert not inputs.flags["C_CONTIGUOUS"]
    Session(model).bind(inputs)()


def test_a_model_that_fails_while_it_runs_says_so_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    session = Session(tiny.out_of_range(tmp_path / "bad.onnx"))
    with pytest.raises(ModelFileError) as caught:
        session.run(session.example(2))
    assert str(caught.value).startswith(
        f"{tmp_path / 'bad.onnx'}: onnxruntime fails on inputs [2, 1, 12, 12]: [ONNXRuntimeError]"
    )
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # nothing beside the message


def test_an_example_has_the_declared_shape_and_type(model: Path, tmp_path: Path):
    session = Session(model)
    (example,) = session.example(5)
    assert (example.shape, example.dtype) == ((5, 4), np.float32)
    np.testing.assert_array_equal(example, session.example(5)[0])
    assert (session.example(5, seed=1)[0] != example).any()
    (integers,) = Session(write(tmp_path / "int.onnx", kind=TensorProto.INT64)).example(2)
    assert (integers.shape, integers.dtype) == ((2, 4), np.int64)


def test_cuda_where_there_is_none(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    check_device("cpu")
    for attempt in (lambda: check_device("cuda"), lambda: Session(model, "cuda")):
        with pytest.raises(DeviceUnavailable) as caught:
            attempt()
        assert str(caught.value) == (
            f"device 'cuda': onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider "
            "here; use --device cpu, or install onnxruntime-gpu on a machine with CUDA."
        )


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ModelFileError) as caught:
        Session(tmp_path / "no.onnx")
    assert str(caught.value) == f"{tmp_path / 'no.onnx'}: no such file; expected an ONNX model."


@pytest.mark.parametrize("raw", [b"", b"\x00", b"not a model at all", b"\xff" * 100])
def test_a_damaged_file_is_one_line(tmp_path: Path, raw: bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelFileError) as caught:
        Session(path)
    assert str(caught.value).startswith(f"{path}: onnxruntime cannot load it: ")
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused(model: Path, tmp_path: Path):
    raw, path = model.read_bytes(), tmp_path / "m.onnx"
    for length in range(0, len(raw), 23):
        path.write_bytes(raw[:length])
        with pytest.raises(ModelFileError, match="onnxruntime cannot load it"):
            Session(path)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (np.zeros((2, 5), np.float32), "float32 [2, 5]"),
        (np.zeros((2, 4, 1), np.float32), "float32 [2, 4, 1]"),
        (np.zeros(4, np.float32), "float32 [4]"),
        (np.zeros((2, 4), np.float64), "float64 [2, 4]"),
        (np.zeros((2, 4), np.int64), "int64 [2, 4]"),
    ],
)
def test_data_that_does_not_fit(model: Path, inputs: np.ndarray, found: str):
    session = Session(model)
    for attempt in (session.run, session.bind):
        with pytest.raises(ShapeMismatch) as caught:
            attempt(inputs)
        assert str(caught.value) == (
            f"{model}: takes x tensor(float) ['n', 4], the data is {found}."
        )


def test_a_fixed_batch_and_a_second_input_are_named(tmp_path: Path):
    path = write(tmp_path / "fixed.onnx", batch=2)
    assert Session(path).run(np.zeros((2, 4), np.float32)).shape == (2, 3)
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)  # the last part is filled up and cut off
    expected = np.concatenate([Session(path).run(rows[at : at + 2]) for at in (0, 2, 3)])
    np.testing.assert_array_equal(Session(path).run(rows), expected[[0, 1, 2, 3, 5]])
    with pytest.raises(ShapeMismatch) as caught:
        Session(path).bind(np.zeros((3, 4), np.float32))
    assert str(caught.value) == (
        f"{path}: takes x tensor(float) [2, 4], the data is float32 [3, 4]."
    )
    path = write_two_inputs(tmp_path / "two.onnx")
    with pytest.raises(ShapeMismatch) as caught:
        Session(path).run(np.zeros(3, np.float32))
    assert str(caught.value) == (
        f"{path}: takes a tensor(float) ['n'], b tensor(float) ['n'], the data is float32 [3]."
    )


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("sign", ["", "u"])
def test_whole_numbers_of_every_width(tmp_path: Path, kind: str, sign: str):
    file = write(tmp_path / "model.onnx", kind=TensorProto.DataType.Value((sign + kind).upper()))
    session = Session(file)
    rows = np.arange(8).reshape(2, 4).astype(sign + kind)
    assert session.declared()[0].dtype == rows.dtype
    np.testing.assert_allclose(session.run((rows,)), rows.astype(np.float32) @ WEIGHT, rtol=1e-5)


def test_an_input_of_text_is_refused_by_name(tmp_path: Path):
    file = tmp_path / "model.onnx"
    x = helper.make_tensor_value_info("words", TensorProto.STRING, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.STRING, ["n"])
    graph = helper.make_graph([helper.make_node("Identity", ["words"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), file)
    session = Session(file)
    for use in (lambda: session.example(1), lambda: session.check((np.array(["a"], object),))):
        with pytest.raises(ModelFileError, match=r"input 'words' is a tensor.string.; expected"):
            use()
