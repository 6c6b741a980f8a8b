"""Starting a measuring process, and finding out which model it died of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compress import errors
from compress.errors import CompressError, InputError, WorkerFailed
from compress.measure.worker import FAILED

#: What a worker runs, behind the interpreter.
_WORKER = ("-m", "compress.measure.worker")
#: Seconds between two looks at whether a worker still lives.
_LOOK = 5.0


class ArmFailed(Exception):
    """A measuring process did not come to its end.

    Attributes:
        arm: name of the arm it was at; None where it had not reached one.
        reason: one line without a full stop.
        cause: the class of `compress.errors` that the worker raised; None for anything else.
    """

    def __init__(self, arm: str | None, reason: str, cause: type[CompressError] | None) -> None:
        super().__init__(reason)
        self.arm, self.reason, self.cause = arm, reason, cause

    def error(self, all_arms: Iterable[str], *, by_cause: bool = False) -> CompressError:
        """What to raise where the arm cannot be left out.

        Args:
            by_cause: bad input stays what it is, such as a `ShapeMismatch`.
        """
        if by_cause and self.cause is not None and issubclass(self.cause, InputError):
            return self.cause(self.reason)
        return WorkerFailed(f"measuring {self.arm or ', '.join(all_arms)}: {self.reason}.")


def run_worker(
    job: dict[str, Any], timeout: float, folder: Path, *, program: Sequence[str] = ()
) -> Any:
    """What one worker answers to a job.

    Args:
        timeout: seconds without a sign of life.
        folder: for the worker's trace.
        program: what stands behind the interpreter, if not the worker that times.

    Raises:
        ArmFailed: it died, hung, or could not load or run an arm.
    """
    trace = folder / "trace"
    trace.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, *(program or _WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(max(job["threads"])),
    ) as process:
        try:
            out, err = _talk(process, json.dumps(job | {"trace": str(trace)}), trace, timeout)
        except TimeoutError:
            reason = f"the process hung for {timeout:g} s and was stopped"
            raise ArmFailed(_arm(job, trace), reason, None) from None
        finally:
            process.kill()
    if process.returncode:
        reason, cause = _reason(process.returncode, out, err)
        raise ArmFailed(_arm(job, trace), reason, cause)
    return json.loads(out)


def environment(threads: int) -> dict[str, str]:
    """A worker's environment: thread counts are there before anything is imported.

    numpy's own threads have nothing to do in a worker but to be in the way; waiting threads sleep,
    as those of onnxruntime do.
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # This package and the user's own models are imported there as they are here.
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONSAFEPATH": "1",
    }


def _talk(
    process: subprocess.Popen[str], message: str, trace: Path, timeout: float
) -> tuple[str, str]:
    """Everything that the process writes; TimeoutError where its trace stands still."""
    last, since = "", time.monotonic()
    given: str | None = message
    while True:
        try:
            return process.communicate(given, timeout=min(_LOOK, timeout))
        except subprocess.TimeoutExpired:
            given = None  # what was begun to be written goes on
        now = _read(trace)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= timeout:
            raise TimeoutError


def _read(trace: Path) -> str:
    return trace.read_text() if trace.exists() else ""


def _arm(job: dict[str, Any], trace: Path) -> str | None:
    words = _read(trace).split()
    return job["arms"][int(words[1])]["name"] if len(words) == 2 else None


def _reason(code: int, out: str, err: str) -> tuple[str, type[CompressError] | None]:
    if code < 0:
        return _signal(-code), None
    if code != FAILED:
        last = err.strip().splitlines()[-1:] or [f"exit code {code}"]
        return f"the process died: {last[0]}", None
    said = json.loads(out)
    cause = getattr(errors, said["kind"], None)
    line = said["reason"].removesuffix(".")
    return (line if cause else f"{said['kind']}: {line}"), cause


def _signal(number: int) -> str:
    hint = ", as happens where memory runs out" if number == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(number).name}{hint}"
