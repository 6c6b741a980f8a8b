"""Calls in a process of their own: where onnxruntime crashes, this one lives and can say so.

onnxruntime 1.31 dies of a segmentation fault on some graphs with If in If. A process starts in a
third of a second and serves any number of calls; one that died is started anew for the next.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from compress import errors
from compress.errors import first_line

#: The C library fills freed memory: what reads it crashes here each time, not now and then.
_SETTINGS = {"MALLOC_PERTURB_": "181", "PYTHONSAFEPATH": "1"}

#: Calls a function with arguments; both, and what it gives, can be pickled.
Call = Callable[..., Any]


class Crashed(Exception):
    """The process died; says of what, in one line without a full stop."""


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call in this process."""
    return function(*arguments)


@contextmanager
def calls(*, isolated: bool) -> Iterator[Call]:
    """What calls functions: here, or in another process for as long as this lasts."""
    if not isolated:
        yield here
        return
    process = Isolated()
    try:
        yield process.call
    finally:
        process.stop()


class Isolated:
    """A process for calls, started with the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of any module gives there.

        Raises:
            Crashed: the process died of it.
            CompressError: the function raised it; anything else that it raised is a RuntimeError.
        """
        if self._process is None:
            self._process = _start()
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None
        assert taken is not None
        try:
            pickle.dump((function, arguments), given)
            given.flush()
            value, failure = pickle.load(taken)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise Crashed(_cause(self.stop())) from None
        if failure is not None:
            raise _raised(*failure)
        return value

    def stop(self) -> int:
        """End the process; returns its exit code, 0 where there was none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=5)  # its input ends here, and so does it
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode


def _told(error: Exception) -> tuple[str, str, str]:
    """An exception as text, with its cause: not all of onnxruntime's can be pickled."""
    cause = first_line(error.__cause__) if error.__cause__ else ""
    return type(error).__name__, str(error), cause


def _raised(kind: str, text: str, cause: str) -> Exception:
    """The exception that was told; of the package's own kind, or else a RuntimeError."""
    found = getattr(errors, kind, RuntimeError)
    error: Exception = found.__new__(found, text)
    error.args = (text,)
    error.__cause__ = RuntimeError(cause) if cause else None
    return error


def _start() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "compress.runtime.isolated"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_SETTINGS, "PYTHONPATH": paths},
    )


def _cause(code: int) -> str:
    if code < 0:
        return f"onnxruntime crashes ({signal.Signals(-code).name})"
    return f"onnxruntime ends its process (exit code {code})"


def _serve(given: IO[bytes], taken: IO[bytes]) -> None:
    while True:
        try:
            function, arguments = pickle.load(given)
        except EOFError:
            return
        answer: tuple[Any, Any]
        try:
            answer = function(*arguments), None
        except Exception as error:
            answer = None, _told(error)
        pickle.dump(answer, taken)
        taken.flush()


def _main() -> None:
    """Answer to what stands behind the standard output, which libraries may write to."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as taken:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _serve(sys.stdin.buffer, taken)


if __name__ == "__main__":
    _main()
