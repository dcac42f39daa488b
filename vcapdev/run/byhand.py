# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --show``: the commands of a run, as lines that a person can paste into a shell.

A run that goes on from a snapshot hands QEMU its RAM as an open file and tells it the rest over QMP, which
nobody types. So these lines boot the same guest, with the same card, in a directory of their own.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import vcapdev
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import serve_options, vm_config
from vcapdev.run.prepare import Prepared
from vcapdev.vm.commandline import build_command_line

_WAIT = 20  # seconds for the card to listen; half a one on an idle machine


def lines(options: RunOptions, prepared: Prepared, place: Path) -> Iterator[str]:
    """The lines, for bash. ``place`` is the directory that they make and remove; its path must be short.

    :raise UsageError: it is too long for a socket.
    """
    config = vm_config(options, prepared, place)
    assert config.card_socket is not None
    serve = replace(serve_options(options, place), with_parent=False)
    source = Path(vcapdev.__file__).parent.parent
    device = [f"PYTHONPATH={source}", sys.executable, "-m", "vcapdev", "serve", *serve.command_line()]
    where = "here" if options.shell else config.console_log
    yield f"# the same by hand: the guest boots (its console: {where})"
    yield shlex.join(["mkdir", "-m", "700", str(place)])
    if config.swap_disk is not None:
        yield shlex.join(["truncate", "-s", f"{config.swap_disk_mib}M", str(config.swap_disk)])
    yield shlex.join(["env", *device]) + " &"
    listens = f"until [ -S {shlex.quote(str(config.card_socket))} ]; do sleep 0.1; done"
    yield shlex.join(["timeout", str(_WAIT), "sh", "-c", listens])
    # In one line: what is pasted behind it would be typed into the guest.
    clean_up = f"kill $!; wait $!; {shlex.join(['rm', '-r', str(place)])}"
    yield f"{shlex.join(build_command_line(config))}; {clean_up}"
