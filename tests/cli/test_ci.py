"""What CI calls beside a check with two models: a first check, the pages anew, a history."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import cli

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))  # the sample report

from gated import gated_report
from histories import day, store
from sample import sample_report

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """The command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


def test_a_first_check_passes_only_where_it_may(call: Call, trained_onnx: Path) -> None:
    code, _, err = call("check", "baseline", trained_onnx)
    assert code == 2
    assert "baseline: no such model. On a first run" in err
    assert "--missing-baseline pass" in err
    first = "baseline: no baseline yet, so there was nothing to compare with."
    allowed = ["check", "baseline", trained_onnx, "--missing-baseline", "pass"]
    assert call(*allowed, "--out", "check") == (0, f"{first}\n", "")
    assert not Path("check").exists()
    Path("baseline").mkdir()  # what a cache without content may leave
    assert call(*allowed)[:2] == (0, f"{first}\n")
    _, out, _ = call(*allowed, "--json")
    assert json.loads(out) == {"gate": None, "message": first}


def test_a_first_check_still_needs_a_candidate_and_a_whole_baseline(
    call: Call, trained_onnx: Path
) -> None:
    code, _, err = call("check", "baseline", "nothing", "--missing-baseline", "pass")
    assert (code, err.startswith("compress: nothing: no such model.")) == (2, True)
    Path("baseline").mkdir()
    Path("baseline/half").write_text("")
    code, _, err = call("check", "baseline", trained_onnx, "--missing-baseline", "pass")
    assert code == 2
    assert "no artifact here" in err


def test_report_renders_what_ci_reads(call: Call) -> None:
    for folder, content in (("run", sample_report()), ("gate", gated_report())):
        Path(folder).mkdir()
        (Path(folder) / "report.json").write_text(content.model_dump_json())
    assert call("report", "run", "gate")[0] == 0
    assert 'failures="1"' in Path("gate/junit.xml").read_text()
    assert 'failures="0"' in Path("run/junit.xml").read_text()
    assert json.loads(Path("run/benchmark.json").read_text())[0]["unit"] == "ratio"


def test_report_draws_a_history(call: Call, tmp_path: Path) -> None:
    reports = [day(place, 0.06 if place < 8 else 0.09) for place in range(16)]
    store(tmp_path / "builds", reports)
    (tmp_path / "builds" / "report-bad.json").write_text("{")
    code, out, err = call("report", "--history", "builds", "--out", "pages")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "report-bad.json: skipped: no JSON that can be read (JSONDecodeError).",
        "2 changes of level, 2 for the worse in 16 reports.",
        "history: pages/history.html",
    ]
    names = {path.name for path in Path("pages").iterdir()}
    assert names == {"history.html", "history.md", "history.json"}
    code, out, _ = call("report", "--history", "builds", "--json")
    assert json.loads(out) == json.loads(Path("builds/history.json").read_text())


def test_report_refuses_what_it_cannot_draw(call: Call) -> None:
    code, _, err = call("report")
    assert (code, "name either runs to render, or --history FOLDER." in err) == (2, True)
    assert call("report", "run", "--history", "builds")[0] == 2
    assert "--out goes with --history" in call("report", "run", "--out", "x")[2]
    Path("builds").mkdir()
    code, _, err = call("report", "--history", "builds")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("compress: builds: no history yet")
    (Path("builds") / "report.json").write_text("{")
    code, _, err = call("report", "--history", "builds")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "none of 1 reports can be used" in err


@pytest.mark.parametrize("value", ["NaN", "-1.5"])
def test_a_latency_that_cannot_be_is_refused_by_name(call: Call, value: str) -> None:
    text = sample_report().model_dump_json()
    assert text.count('"median_ms":0.634,') == 1
    Path("report.json").write_text(text.replace('"median_ms":0.634,', f'"median_ms":{value},'))
    code, _, err = call("report", "report.json")
    assert code == 2
    said = "a finite number (found nan)" if value == "NaN" else "greater than 0 (found -1.5)"
    assert f"arms.0.latency.0.median_ms: Input should be {said}" in err


@pytest.mark.parametrize(
    ("place", "value"),
    [(("arms", 0, "size_bytes"), -1), (("raw", "cells", 0, "blocks_ns", 0, 0), -5)],
)
def test_figures_that_cannot_be_are_refused_by_name(
    call: Call, trained_onnx: Path, place: tuple[str | int, ...], value: int
) -> None:
    quick = ["batch=1", "threads=1", "workers=1", "rounds=2", "block_ms=0.1", "warm_up_s=0.002"]
    assert call("bench", trained_onnx, *quick, "--out", "out")[0] == 0
    content = json.loads(Path("out/report.json").read_text())
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    Path("report.json").write_text(json.dumps(content))
    code, _, err = call("report", "report.json")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f": {'.'.join(map(str, place))}: Input should be greater than" in err
