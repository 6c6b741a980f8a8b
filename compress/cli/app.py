"""The `compress` command: its sub-commands, and how errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from compress.cli import (
    check_command,
    inspect_commands,
    look_commands,
    profile_command,
    run_commands,
    stage_commands,
)
from compress.errors import CompressError

app = typer.Typer(
    name="compress",
    help="Make trained models small and fast, prove that they still answer right.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 regressed, budget missed or a stage without effect, 2 wrong use, "
    "bad input, 3 inconclusive.",
)
for module in (
    run_commands,
    stage_commands,
    inspect_commands,
    profile_command,
    check_command,
    look_commands,
):
    module.register(app)

#: Exit code of a program that Ctrl-C stopped: 128 and the number of the signal.
INTERRUPTED = 130


def main() -> None:
    """Entry point; an error on purpose is one line on stderr, a traceback only with `--debug`."""
    # torch's threads spin at every barrier; beside a busy neighbour that made training on two cores
    # ten times slower. Read when torch is loaded, so it has to be set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.path.append(
        str(Path.cwd())
    )  # `module:factory` finds the user's own modules, behind all others
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("COMPRESS_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(args=arguments or ["--help"], prog_name="compress", standalone_mode=False)
        if code == INTERRUPTED:  # newer versions of typer turn Ctrl-C into a return value
            _interrupted()
    except CompressError as error:
        if debug:
            raise
        place = "".join(f"{note}: " for note in getattr(error, "__notes__", []))
        print(f"compress: {place}{error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = _interrupted()
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        if debug:
            raise
        code = _usage(error)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    print(
        "compress: interrupted; finished stages are kept, the same command goes on from there.",
        file=sys.stderr,
    )
    return INTERRUPTED


def _usage(error: Exception) -> int:
    """What click says of wrong options; anything else is a defect of ours and says so."""
    message = getattr(error, "format_message", None)
    if message is not None:
        context = getattr(error, "ctx", None)
        name = context.command_path if context else "compress"
        if text := message():
            print(f"{name}: {text} Try '{name} --help'.", file=sys.stderr)
        return 2
    if type(error).__name__ == "Abort":  # what typer makes of Ctrl-C
        return _interrupted()
    print(
        f"compress: unexpected {type(error).__name__}: {error}. This is a defect; "
        "the same command with --debug shows where.",
        file=sys.stderr,
    )
    return 1
