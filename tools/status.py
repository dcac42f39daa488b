# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command for make, then says what its exit status means: ``status.py COMMAND ...``."""

from __future__ import annotations

import signal
import subprocess
import sys

from vcapdev.errors import ExitStatus


def meaning(status: int) -> str:
    """A short phrase for the exit status of ``vcapdev``."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    try:
        return ExitStatus(status).meaning
    except ValueError:
        return "not a status of vcapdev"


def main(command: list[str]) -> int:
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # make passes on what it gets itself
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:
            continue  # the terminal sent it to the child as well: its own clean-up decides
    print(f"exit status {status} = {meaning(status)}", file=sys.stderr)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
