# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn prompt at a finding: the page, who mapped it, the buffer and the instruction have names.

On a terminal it is drgn's own, with history and completion; else lines come from standard input, so that a
script can ask. Its end (Ctrl-D) is the end of the look.
"""

from __future__ import annotations

import code
import curses
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import drgn
from drgn import Object, Program

from vcapdev.evidence.bindings import Bindings


class _Console(code.InteractiveConsole):
    """Reads lines without a terminal: no prompts between the answers."""

    def raw_input(self, prompt: str = "") -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


def open_prompt(program: Program, bindings: Bindings, banner: str) -> bool:
    """Let somebody ask until the input ends.

    :return: False when they left by ``exit()``: then what was looked at shall end, too.
    """
    names, cli = bindings.names(), _drgns_cli()
    with _interruptible():
        try:
            if sys.stdin.isatty():
                cli.run_interactive(
                    program,
                    banner_func=lambda _: f"{banner}\nBesides drgn's own: {', '.join(names)}.",
                    globals_func=lambda own: {**own, **names},
                )
            else:
                _run_script(program, {**cli.default_globals(program), **names}, banner)
        except SystemExit:
            return False
        finally:
            sys.stdout.flush()
    return True


def _drgns_cli() -> Any:
    """drgn's module for prompts, which chooses the kind of prompt when it is imported."""
    if not _can_edit():
        os.environ["PYTHON_BASIC_REPL"] = "1"  # heeded by drgn, as by Python itself
    import drgn.cli

    return drgn.cli


def _can_edit() -> bool:
    """Whether the terminal can do what the prompt of Python 3.13 takes for granted; TERM=dumb cannot."""
    try:
        curses.setupterm(fd=sys.stdout.fileno())
        return all(curses.tigetstr(name) for name in ("bel", "clear", "cup", "el"))
    except (curses.error, OSError, ValueError):
        return False


def _run_script(program: Program, names: dict[str, Any], banner: str) -> None:
    before, sys.displayhook = sys.displayhook, _display
    drgn.set_default_prog(program)
    try:
        print(banner, flush=True)
        _Console(names).interact(banner="", exitmsg="")
    finally:
        sys.displayhook = before
        drgn.set_default_prog(None)


def _display(value: object) -> None:
    if value is not None:
        print(value.format_() if isinstance(value, Object) else value, flush=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a statement, not the run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
