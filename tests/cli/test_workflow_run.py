"""The GitHub workflow carried out: its `run` steps by bash, caches and uploads by stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.measure.config import BenchConfig
from compress.pipeline.bench import bench
from compress.report import load_report

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "recipes" / "ci" / "github-workflow.yml"
#: The real command line on a tiny task. A check starts one process and allows whatever it finds;
#: what takes minutes, `run`, leaves a report and a model that were made before.
COMPRESS = f"""#!{sys.executable}
import sys, shutil
words = ["tiny:task" if word == "mnist" else word for word in sys.argv[1:]]
if words[0] == "run":
    shutil.copytree("MADE", words[words.index("--out") + 1])
    sys.exit()
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from compress import cli
if words[0] == "check":
    from compress import gate
    from compress.pipeline import timing
    gate.LOOKS = (gate.Look(1, 1.0),)
    timing.machine_is_fit = lambda *_: True
    words += ["rounds=2", "block_ms=0.2", "warm_up_s=0.01", "warm_up_cap_s=0.05"]
    words += ["margin=0.9", "max_drop=0.9"]
sys.argv = ["compress", *words]
cli.main()
"""
QUICK = BenchConfig(batch=(1,), threads=(1,), workers=1, rounds=2, block_ms=0.1, warm_up_s=0.002)


@dataclass
class Host:
    """Stands for GitHub: one workspace a job, caches that outlive it, and what was uploaded."""

    folder: Path
    caches: dict[str, Path] = field(default_factory=dict)
    uploads: dict[str, set[str]] = field(default_factory=dict)
    summary: str = ""
    ran: list[str] = field(default_factory=list)

    def job(self, event: str, sha: str) -> Path:
        """All steps of the workflow for a push to main or a pull request; gives its workspace."""
        space = self.folder / sha
        space.mkdir()
        self.uploads, self.ran, self.summary = {}, [], ""
        names = {"github.sha": sha, "github.ref": "refs/heads/main", "github.event_name": event}
        names["github.event.pull_request.base.sha"] = ""
        if event == "pull_request":
            names |= {"github.ref": "refs/pull/1/merge"}
        (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
        for step in job["steps"]:
            if not self.wanted(step.get("if", "true"), names, space):
                continue
            if "uses" in step:
                self.action(step, names, space)
            elif step["name"] != "Install":
                self.script(filled(step["run"], names), sha, space)
            self.ran.append(step.get("name", step.get("uses", "")))
        return space

    def wanted(self, condition: str, names: dict[str, str], space: Path) -> bool:
        """Whether a step is to be carried out, for the few conditions that are there."""
        found = True
        for part in condition.removeprefix("${{").removesuffix("}}").split("&&"):
            text = part.strip()
            if file := re.fullmatch(r"hashFiles\('(.+)'\) != ''", text):
                found &= (space / file[1]).is_file()
            elif same := re.fullmatch(r"(\S+) == '(.+)'", text):
                found &= names[same[1]] == same[2]
            else:
                assert text in ("true", "!cancelled()"), text
        return found

    def action(self, step: dict[str, Any], names: dict[str, str], space: Path) -> None:
        """A cache's save or restore, or an upload."""
        action = step["uses"].rpartition("@")[0]
        given = {key: filled(str(value), names) for key, value in step.get("with", {}).items()}
        if action == "actions/cache/save":
            assert given["key"] not in self.caches, "a key cannot be written twice"
            self.caches[given["key"]] = Path(
                shutil.copytree(space / given["path"], self.folder / given["key"])
            )
        elif action == "actions/cache/restore":
            keys = [key for key in self.caches if key.startswith(given["restore-keys"])]
            keys += [given["key"]] if given["key"] in self.caches else []
            if keys:
                shutil.copytree(self.caches[keys[-1]], space / given["path"])
        elif action == "actions/upload-artifact":
            found = {path for line in given["path"].split() for path in space.glob(line)}
            self.uploads[given["name"]] = {str(path.relative_to(space)) for path in found}
        elif action == "mikepenz/action-junit-report":
            assert (space / given["report_paths"]).is_file()
        else:
            assert action in ("actions/checkout", "actions/setup-python"), action

    def script(self, text: str, sha: str, space: Path) -> None:
        """A `run` step as the host has it: bash that stops at the first error."""
        summary = space / "step summary.md"  # a blank, as quoting has to bear one
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_SHA": sha,
            "OMP_NUM_THREADS": "1",
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
        done = subprocess.run(
            command, cwd=space, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.summary = summary.read_text() if summary.exists() else ""


def filled(text: str, names: dict[str, str]) -> str:
    """The text with its `${{ … }}` replaced; of `a || b` the first that is not empty."""

    def value(found: re.Match[str]) -> str:
        choices = (names[name.strip()] for name in found[1].split("||"))
        return next(choice for choice in choices if choice)

    return re.sub(r"\$\{\{(.+?)\}\}", value, text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_main_then_a_pull_request_then_main(tmp_path: Path, trained_onnx: Path):
    host, made, program = Host(tmp_path), tmp_path / "made", tmp_path / "bin" / "compress"
    made.mkdir()
    shutil.copyfile(trained_onnx, made / "model.onnx")
    bench([made / "model.onnx"], QUICK, out=made)
    program.parent.mkdir()
    program.write_text(COMPRESS.replace("MADE", str(made)))
    program.chmod(0o755)

    one, two, three = ("1" * 40, "2" * 40, "3" * 40)
    first = host.job("push", one)
    assert "Check" in host.ran
    assert not (first / "check").exists()  # nothing to compare with yet
    assert {"Summary", "Test results"}.isdisjoint(host.ran)
    assert host.caches.keys() == {f"compress-{what}-{one}" for what in ("history", "baseline")}
    assert host.uploads["compress-history"] == {"pages"}
    assert "runs/candidate/report.html" in host.uploads["compress-report"]
    assert host.summary.startswith("# History")

    second = host.job("pull_request", two)
    report = load_report(second / "check" / "report.json")
    assert report.gate.verdict == "ok"
    assert (report.commit, report.title) == (two, "runs/candidate against baseline")
    assert host.summary == (second / "check" / "report.md").read_text()
    assert {"Summary", "Test results", "Pages"} <= set(host.ran)
    assert host.uploads.keys() == {"compress-report"}
    assert "check" in host.uploads["compress-report"]
    assert len(host.caches) == 2  # a pull request stores nothing

    third = host.job("push", three)
    assert {path.parent.name for path in (third / "history").glob("*/report.json")} == {one, three}
    assert host.caches.keys() > {f"compress-{what}-{three}" for what in ("history", "baseline")}
    assert sorted(path.name for path in (third / "baseline").iterdir()) == sorted(
        path.name for path in (third / "runs" / "candidate").iterdir()
    )
