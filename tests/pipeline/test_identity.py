"""What a run takes for unchanged: a stage made anew with another result is not."""

from __future__ import annotations

from pathlib import Path

from compress.artifact import ONNX, Artifact, Card, finish, load_artifact, writing
from compress.pipeline.keys import report_key
from compress.recipe import parse_recipe

RECIPE = parse_recipe({"task": "tiny:task", "model": "cnn", "stages": ["train"]})


def made(folder: Path, content: bytes) -> Artifact:
    with writing(folder) as scratch:
        (scratch / ONNX).write_bytes(content)
        finish(scratch, Card(kind="quantize", name="quantize", key="same inputs"))
    return load_artifact(folder)


def test_equal_inputs_with_another_result_are_another_artifact(tmp_path: Path):
    # `method: best` chooses by the clock, so the same inputs can end in another file.
    one, again = made(tmp_path / "a", b"static"), made(tmp_path / "b", b"static")
    other = made(tmp_path / "c", b"weight-only")
    assert one.card.key == other.card.key
    assert one.identity == again.identity != other.identity
    bench = RECIPE.stages[-1].config
    keys = [
        report_key(RECIPE, bench, {"quantize": artifact}, "cpu") for artifact in (one, again, other)
    ]
    assert keys[0] == keys[1] != keys[2]
