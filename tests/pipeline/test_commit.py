"""The commit of a report: from CI, from Git, or none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compress.pipeline.commit import current_commit

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["GITHUB_SHA", "CI_COMMIT_SHA"])
def test_ci_says_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SHA)
    assert current_commit() == SHA
    monkeypatch.setenv(name, "no hash; rm -rf")
    assert current_commit() is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_says_it(tmp_path: Path) -> None:
    assert current_commit() is None
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], check=True, capture_output=True)
    found = current_commit()
    assert found is not None
    assert len(found) in (40, 64)


def test_without_git_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert current_commit() is None
