"""The GitHub workflow that users copy: valid YAML, and every command in it is one of ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from compress.cli.app import app
from compress.data.references import TASKS

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "recipes" / "ci" / "github-workflow.yml"


def steps() -> list[dict[str, Any]]:
    content = yaml.safe_load(WORKFLOW.read_text())
    (job,) = content["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def commands(text: str) -> list[list[str]]:
    """The `compress …` lines of a shell script, as words."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("compress ")]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """What the real command line makes of the words; it raises where they are wrong."""
    group: Any = typer.main.get_command(app)
    name, *arguments = words[1:]
    command = group.commands[name]
    return name, command.make_context(name, arguments).params


def test_every_step_does_one_thing_and_every_expression_closes() -> None:
    content = yaml.safe_load(WORKFLOW.read_text())
    assert set(content[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as a boolean
    for step in steps():
        assert ("uses" in step) != ("run" in step)
        assert set(step) <= {"uses", "run", "name", "if", "with"}
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+", step["uses"])
    text = WORKFLOW.read_text()
    assert text.count("${{") == text.count("}}") > 0


def test_every_command_is_understood_by_the_real_command_line() -> None:
    found = [parsed(words) for step in steps() for words in commands(step.get("run", ""))]
    assert [name for name, _ in found] == ["run", "check", "report"]
    run, check, report = (settings for _, settings in found)
    assert (ROOT / run["recipe"]).is_file()
    assert check["candidate"] == run["out"]
    assert check["data"] in TASKS
    assert check["missing_baseline"] == "pass"
    assert str(report["history"]) == "history"
    script = "\n".join(step.get("run", "") for step in steps())
    for folder in (check["out"] / "report.md", report["out"] / "history.md"):
        assert f'cat {folder} >> "$GITHUB_STEP_SUMMARY"' in script
    assert any(str(check["out"] / "junit.xml") in str(step.get("with")) for step in steps())


def test_main_stores_what_pull_requests_fetch() -> None:
    caches: dict[str, list[dict[str, str]]] = {"restore": [], "save": []}
    for step in steps():
        if step.get("uses", "").startswith("actions/cache/"):
            kind = step["uses"].split("/")[2].split("@")[0]
            caches[kind].append(step["with"])
            assert kind == "restore" or step["if"] == "github.ref == 'refs/heads/main'"
    for saved in caches["save"]:
        fetched = [each for each in caches["restore"] if each["path"] == saved["path"]]
        assert [saved["key"].startswith(each["restore-keys"]) for each in fetched] == [True]
    assert {each["path"] for each in caches["save"]} == {"baseline", "history"}


def test_the_readme_has_the_same_commands() -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = (each for each in re.findall(r"```yaml\n(.*?)```", text, re.S) if "cache" in each)
    lines = [words for step in yaml.safe_load(block) for words in commands(step.get("run", ""))]
    assert [parsed(words)[0] for words in lines] == ["check"]


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["compress", "check", "a", "b", "--missing-base"])
