"""The command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from rich.logging import RichHandler

from holdfast._errors import HoldfastError
from holdfast.cli import (  # noqa: F401  each adds its commands
    measuring,
    recommending,
    searching,
    shelf,
    sid,
    training,
    using,
    viewing,
)
from holdfast.cli.app import app, complaints, say


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and leave with its exit code (`holdfast --help` lists them)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    _listen(logging.DEBUG if debug else logging.WARNING)
    try:
        app(args=given, prog_name="holdfast")
    except HoldfastError as error:
        if debug:
            complaints.print_exception()
        say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            complaints.print_exception()
        fault = f"{type(error).__name__}: {error}"
        say(f"This is a fault in Holdfast, not in what you gave it: {fault} (--debug shows where)")
        sys.exit(1)


def _listen(level: int) -> None:
    """What loggers under `holdfast` say goes to the terminal."""
    logger = logging.getLogger("holdfast")
    logger.setLevel(level)
    logger.handlers = [RichHandler(level, complaints, show_time=False, show_path=False)]
    logger.propagate = False
