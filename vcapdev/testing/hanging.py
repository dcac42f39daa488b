# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that the guest's kernel does not let go, though they were killed: which, and where they hang."""

from __future__ import annotations

import re
from contextlib import suppress

from vcapdev.errors import GuestError
from vcapdev.testing.complaints import Complaint
from vcapdev.vm.agent import Agent

KIND = "hung-task"
_PATIENCE = 20.0  # seconds for one look, in a guest that may be in a bad way
_APART = 1.0  # seconds between two looks; waiting for a disk takes less
_HEAD = re.compile(r"== (?P<pid>\d+) (?P<name>.*)")
_FRAME = re.compile(r"(?:\[<[0-9a-f]*>\] )?(?P<where>[A-Za-z_][\w.]*)\+0x\S+(?P<module> \[\w+\])?")
#: All threads of programs in uninterruptible sleep, each with its stack (Documentation/filesystems/proc.rst).
#: Children of process 2 are threads of the kernel.
_LOOK = """
for task in /proc/[0-9]*/task/[0-9]*; do
	name= state= parent=
	while read -r key value rest; do
		case $key in
		Name:) name=$value ;;
		State:) state=$value ;;
		PPid:) parent=$value ;;
		esac
	done < $task/status
	if [ "$state" = D ] && [ "$parent" != 2 ]; then
		echo "== ${task##*/} $name"
		cat $task/stack
	fi
done 2> /dev/null
true
"""


def hanging(agent: Agent, who: str = "the guest's kernel does not let a program go") -> list[Complaint]:
    """What hangs in the kernel at this moment and a second later; empty when the guest cannot be asked."""
    with suppress(GuestError):
        first = _look(agent)
        if not first:
            return []
        agent.run(["sleep", f"{_APART:g}"], timeout=_PATIENCE)
        then = _look(agent)
        return [
            Complaint(KIND, _title(head, stack), stack, fatal=True, who=who)
            for head, stack in then.items()
            if head in first
        ]
    return []


def _look(agent: Agent) -> dict[str, str]:
    return parse(agent.run(["sh", "-c", _LOOK], timeout=_PATIENCE).stdout)


def parse(text: str) -> dict[str, str]:
    """Stacks by the line that stands before each."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if _HEAD.match(line):
            lines = found.setdefault(line, [])
        else:
            lines.append(line)
    return {head: "\n".join(lines) for head, lines in found.items()}


def _title(head: str, stack: str) -> str:
    """Who hangs, and in which function: the first one of a module, as that is what somebody tests."""
    hit = _HEAD.match(head)
    assert hit is not None
    frames = [frame for frame in map(_FRAME.match, stack.splitlines()) if frame]
    frames.sort(key=lambda frame: frame["module"] is None)
    where = f" in {frames[0]['where']}{frames[0]['module'] or ''}" if frames else ", nobody knows where"
    return f"{hit['name']} (process {hit['pid']}) was killed and hangs{where}"
