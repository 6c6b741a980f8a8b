"""How much memory there is: the machine's, or what a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.measure import memory


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("10000", "4000", 6000), ("10000", "12000", 0), ("max", "4000", None), (None, None, None)],
)
def test_a_containers_limit_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str | None,
    used: str | None,
    left: int | None,
):
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    for name, content in {"memory.max": limit, "memory.current": used}.items():
        if content is not None:
            (tmp_path / name).write_text(f"{content}\n")
    machines = memory._field("/proc/meminfo", "MemAvailable")
    if machines is None:
        pytest.skip("this system does not tell how much memory is available")
    found = memory.available()
    assert found is not None
    assert found == left if left is not None else found > 1_000_000


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    monkeypatch.setattr(memory, "_field", lambda *_: None)
    assert memory.available() is None
    (tmp_path / "memory.max").write_text("100")
    (tmp_path / "memory.current").write_text("40")
    assert memory.available() == 60
