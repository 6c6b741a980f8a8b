"""The command line: it parses, calls, and shows. Frameworks are imported inside the commands."""

from compress.cli.app import main

__all__ = ["main"]
