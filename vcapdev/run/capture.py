# SPDX-License-Identifier: GPL-2.0-or-later
"""One capture inside the guest: its command line, its events, and the memory pressure beside it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vcapdev.errors import GuestError, UsageError
from vcapdev.report.model import Frames
from vcapdev.run.device import signal_name
from vcapdev.run.options import RunOptions
from vcapdev.vm.agent import Agent, GuestTimeoutError, Process

EXPECT = "/tmp/expect"
SAVED = "/tmp/frame"
_MAX_BAD = 50  # damaged places that a report keeps
_HOG_PERCENT = 100  # of the available memory: the rest of it has to be swapped
_STALL = 90.0  # seconds without a single new frame after which a capture is given up

_NUMBER = re.compile(r"[0-9]{1,20}")

Json = dict[str, Any]


def capture_command(options: RunOptions) -> list[str]:
    """The words that start the capture program."""
    words = ["vcap-capture", "--device", "/dev/video0", "--io", options.io, "--size", options.size]
    words += ["--norm", options.norm, "--format", options.format, "--field", options.field]
    words += ["--frames", str(options.frames), "--buffers", str(options.buffers)]
    words += ["--expect", EXPECT, "--full-every", "10" if options.clock == "fast" else "1"]
    words += ["--hold-ms", "200", "--save", str(options.frames // 2), SAVED]
    if options.io == "userptr":
        words += ["--pool", str(options.pool)]
        if options.pressure in ("pageout", "both"):
            words += ["--pageout", "idle,queued"]
        if options.clean:
            words += ["--clean"]
    return words


@dataclass
class Capture:
    """What the capture program told so far (its events: guest/src/vcap-capture.c)."""

    frames: Frames = field(default_factory=Frames)
    saved: int | None = None  # number, in the card's own count, of the frame that is in SAVED
    swapped_pages: int = 0  # buffer pages seen swapped out, idle and queued ones together
    pageout_error: str | None = None  # why MADV_PAGEOUT failed the last time that it did
    summary: Json | None = None

    def line(self, text: str) -> None:
        """Take in one line of its output; what is no event is let pass: the guest is not trusted."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            event = json.loads(text)
            if isinstance(event, dict):
                self._event(event)

    def _event(self, event: Json) -> None:
        kind = event.get("event")
        if kind == "bad" and len(self.frames.bad) < _MAX_BAD:
            self.frames.bad.append({key: value for key, value in event.items() if key != "event"})
        if kind in ("progress", "summary"):
            self._counts(event)
        if kind == "saved":
            self.saved = int(event["frame"])
        if kind == "summary":
            self.summary = event
            self.pageout_error = _error_name(int(event.get("pageout_error", 0)))

    def _counts(self, event: Json) -> None:
        def total(*names: str) -> int:
            return sum(max(0, int(event.get(name, 0))) for name in names)

        frames, seconds = self.frames, total("span_ms") / 1000  # from the first frame to the last
        frames.captured, frames.intact = total("frames"), total("intact")
        frames.dropped, frames.torn = total("dropped"), total("torn")
        frames.damaged, frames.errors = total("stale", "misplaced", "damaged"), total("errors")
        frames.per_second = round((frames.captured - 1) / seconds, 2) if seconds else 0.0
        self.swapped_pages = total("swapped_pages", "idle_swapped", "queued_swapped")


def _error_name(number: int) -> str | None:
    """A Linux errno in words; None of 0."""
    known = errno.errorcode.get(number)
    return (f"{known}: {os.strerror(number)}" if known else f"errno {number}") if number else None


def note_on_pressure(options: RunOptions) -> str | None:
    """What the asked pressure leaves out, where the program has no buffers of its own that are queued."""
    if options.pressure == "none" or options.io == "userptr":
        return None
    if options.io == "mmap":
        text = "the buffers are the driver's own memory, which is never swapped; the hog presses on the rest"
    else:  # into pinned user memory with videobuf (videobuf_read_zerocopy), by way of its own with vb2
        text = "the program waits in read() while the card writes; the hog alone presses"
    without = "; MADV_PAGEOUT is for queued user memory and left out" if options.pressure == "both" else ""
    return f"--io {options.io}: {text}{without}"


class Stall:
    """Notices when a counter does not move any more."""

    def __init__(self, now: float) -> None:
        self._count, self._since = -1, now

    def restart(self, now: float) -> None:
        """Time was lost for a reason: count from now on."""
        self._since = now

    def check(self, count: int, now: float) -> None:
        """Tell the counter's value and the time in seconds.

        :raise GuestError: when it has not moved for too long.
        """
        if count != self._count:
            self._count, self._since = count, now
        elif now - self._since > _STALL:
            raise GuestError(
                f"no new frame for {_STALL:.0f} s after frame {count}; see console.log and kernel.log"
            )


def start_hog(agent: Agent, options: RunOptions) -> Process | None:
    """Start the memory hog when one is wanted: it takes somewhat more than there is."""
    if options.pressure not in ("hog", "both"):
        return None
    return agent.spawn(["vcap-pressure", "--fill", str(_HOG_PERCENT)])


def end_hog(hog: Process | None) -> None:
    """End the hog.

    :raise GuestError: when it had ended before: then there was less pressure than claimed.
    """
    if hog is None:
        return
    if hog.status is not None:
        said = (hog.stderr or hog.stdout).strip().splitlines()
        why = said[-1] if said else "it said nothing"
        raise GuestError(f"the memory hog ended early with status {hog.status}: {why}")
    hog.kill(signal.SIGTERM)
    try:
        hog.wait(20)
    except GuestTimeoutError:
        hog.kill(signal.SIGKILL)


def vmstat(agent: Agent) -> dict[str, int]:
    """The guest's /proc/vmstat; what does not look like it is let pass: the guest is not trusted."""
    lines = agent.pull("/proc/vmstat").decode("ascii", "replace").splitlines()
    words = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and _NUMBER.fullmatch(pair[1])}


def explain_exit(status: int, stderr: str, frames: Frames) -> str | None:
    """Why the capture program's end makes the run fail; None when it does not (see guest/src).

    :raise UsageError: when it cannot do what the options ask of it: only the driver knows its sizes.
    """
    lines = stderr.strip().splitlines() or ["it said nothing"]
    if status in (0, 1):  # 1: damaged frames, which the frame counters tell
        return None
    if status == 2:
        raise UsageError(lines[0].removeprefix("vcap-capture: "))
    said = lines[-1]
    if status < 0:
        return f"the capture program was killed by {signal_name(-status)} after {frames.captured} frames"
    return f"the capture program ended with status {status}: {said}"
