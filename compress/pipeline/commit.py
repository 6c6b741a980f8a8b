"""Which commit of the user's project a report belongs to."""

from __future__ import annotations

import os
import re
import subprocess

#: Where CI systems say it: GitHub Actions, GitLab CI.
_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def current_commit() -> str | None:
    """The commit's hash from CI, else of the working folder's Git repository; None outside one."""
    candidates = [os.environ.get(name, "").strip().lower() for name in _VARIABLES]
    for found in candidates:
        if _COMMIT.fullmatch(found):
            return found
    found = _head()
    return found if _COMMIT.fullmatch(found) else None


def _head() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
