"""Files of installed packages are found without importing them; missing ones are one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compress.data import packages
from compress.data.packages import package_file, unreadable
from compress.data.references import TASKS, data_is_there
from compress.errors import InputError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, with a data file in it."""
    folder = tmp_path / "digits_of_old"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "a.csv").write_text("1,2\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_file_is_found_without_import(installed):
    found = package_file("digits", "digits-of-old", "digits_of_old", "data", "a.csv")
    assert found == installed / "data" / "a.csv"
    assert found.read_text() == "1,2\n"
    assert "digits_of_old" not in sys.modules


def test_path_of_a_file_that_is_gone(installed):
    found = package_file("digits", "digits-of-old", "digits_of_old", "b.csv")
    assert found == installed / "b.csv"
    assert not found.exists()


def test_package_that_is_not_installed():
    with pytest.raises(InputError) as caught:
        package_file("digits", "digits-of-old", "no_such_module", "a.csv")
    assert str(caught.value) == (
        "task 'digits': its data comes with the package digits-of-old, which is not installed; "
        "pip install 'compress-kit[reference]'."
    )


def test_any_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "bare_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="package bare, which is not installed"):
        package_file("digits", "bare", "bare_folder", "a.csv")


def test_unreadable_says_how_to_mend_it():
    error = unreadable("digits", "digits-of-old", Path("some") / "a.csv", "line 1 is empty")
    assert str(error) == (
        "task 'digits': a.csv of digits-of-old cannot be read (line 1 is empty); "
        "pip install --force-reinstall digits-of-old."
    )
    assert error.exit_code == 2


@pytest.mark.parametrize("name", TASKS)
def test_every_task_tells_whether_its_data_is_there(name, monkeypatch):
    assert data_is_there(name)
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    assert not data_is_there(name)
