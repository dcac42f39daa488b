# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions of the driver the acts run at all, as the guest's own function tracer sees it.

Of a change in a function that is never run nothing can be learnt. Functions that the compiler has put into
others cannot be traced: they count as run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vcapdev.errors import GuestError
from vcapdev.gallery.acts import Act
from vcapdev.gallery.stage import Stage

_TRACING = "/sys/kernel/tracing"
_TRACEABLE, _TRACED = "/tmp/vcap-traceable", "/tmp/vcap-traced"
_BUFFER_KIB = 8192


def unreached(stage: Stage, acts: Sequence[Act], names: Iterable[str]) -> frozenset[str]:
    """Functions among ``names`` that the tracer knows, and that no act runs with the kernel's own driver.

    :raise GuestError: an act cannot be played, or this kernel has no function tracer.
    """
    wanted = set(names)
    traceable: set[str] = set()
    traced: set[str] = set()
    for act in acts:
        scene = replace(act.scene, setup=_begin(wanted), teardown=(*act.scene.teardown, *_END), unload=False)
        outcome = stage.run_scene(scene)
        if outcome.trouble or not stage.up:
            raise GuestError(f"cannot find out what {act.name} runs: {outcome.trouble or 'the guest ended'}")
        traceable |= set(stage.pull(_TRACEABLE).decode("ascii", "replace").split())
        traced |= set(stage.pull(_TRACED).decode("ascii", "replace").split())
    return frozenset(wanted & traceable - traced)


def _begin(names: set[str]) -> tuple[str, ...]:
    """Shell lines that start tracing those functions."""
    pattern = "|".join(sorted(names))
    return (
        f"test -e {_TRACING}/trace || mount -t tracefs nodev {_TRACING}",
        f"cd {_TRACING}",
        f"sed -nE 's/^({pattern})([ \\t].*)?$/\\1/p' available_filter_functions | sort -u > {_TRACEABLE}",
        "echo 0 > tracing_on",
        f"echo {_BUFFER_KIB} > buffer_size_kb",
        f"cat {_TRACEABLE} > set_ftrace_filter",
        "echo function > current_tracer",
        "echo 1 > tracing_on",
    )


_END = (
    f"cd {_TRACING}",
    "echo 0 > tracing_on",
    f"sed -nE 's/.*: ([A-Za-z0-9_]+) <-.*/\\1/p' trace | sort -u > {_TRACED}",
    "echo nop > current_tracer",
    "echo > set_ftrace_filter",
)
