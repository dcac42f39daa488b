# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture in the guest, asked for with keywords, and what became of its frames."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypedDict

from vcapdev.errors import GuestError, UsageError
from vcapdev.gallery.scene import Picture
from vcapdev.report.model import Frames
from vcapdev.run.capture import EXPECT, Capture, Stall, explain_exit
from vcapdev.run.options import FIELDS, FORMATS, NORMS
from vcapdev.testing.config import did_you_mean
from vcapdev.vm.agent import GuestTimeoutError, Process

Json = dict[str, Any]

IO = ("userptr", "mmap", "read")
_PAGEOUT = ("idle", "queued")
_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})\Z")
_SMALLEST, _LARGEST = (48, 32), (924, 576)  # bttv_tvnorms, Linux 6.1
_MOST_EVENTS = 2000  # of the program that are kept; the guest is not trusted
_END = 10.0  # seconds for a program to end when told to


class CaptureKeywords(TypedDict, total=False):
    """The keywords of ``guest.capture(...)``; :class:`CaptureOptions` explains them."""

    io: str
    size: str
    format: str
    norm: str | None
    field: str
    device: str
    buffers: int
    pool: int | None
    hold: int
    full_every: int
    pageout: str | Sequence[str]
    clean: bool
    offset: int
    save: int | None
    saved: str
    give_up: float


@dataclass(frozen=True)
class CaptureOptions:
    """What is captured, and how; ``guest.capture(...)`` takes these as keywords.

    :ivar frames: how many good frames end the capture.
    :ivar io: how buffers are handed over: "userptr", "mmap" or "read".
    :ivar size: "WIDTHxHEIGHT".
    :ivar format: a FourCC that bttv knows, such as "YUYV" or "BGR4".
    :ivar norm: what the driver is told to expect; None for what the card sends.
    :ivar field: "interlaced", "top", "bottom", "alternate" or "seq-tb".
    :ivar buffers: queued at once; ``pool``: buffers that take turns (USERPTR only).
    :ivar hold: milliseconds that a released buffer stays untouched, so that a late write shows.
    :ivar full_every: compare each so-manieth frame byte by byte, the others by their tags.
    :ivar pageout: "idle", "queued": buffers that the program itself asks the kernel to swap out (USERPTR).
    :ivar clean: hand over buffers whose pages are new and clean (USERPTR).
    :ivar offset: bytes between a page's begin and a buffer's (USERPTR).
    :ivar save: number of a frame, from 0, to keep in the guest as ``saved``.
    :ivar give_up: seconds without any frame after which the program ends by itself.
    """

    frames: int = 10
    io: str = "userptr"
    size: str = "768x576"
    format: str = "YUYV"
    norm: str | None = None
    field: str = "interlaced"
    device: str = "/dev/video0"
    buffers: int = 4
    pool: int | None = None
    hold: int = 50
    full_every: int = 1
    pageout: tuple[str, ...] = ()
    clean: bool = False
    offset: int = 0
    save: int | None = None
    saved: str = "/tmp/frame"
    give_up: float = 10.0

    def check(self) -> None:
        """Refuse what cannot be, in one line.

        :raise UsageError: names the keyword, what is wrong and what would be right.
        """
        _one_of("io", self.io, IO)
        _one_of("format", self.format, FORMATS)
        _one_of("field", self.field, FIELDS)
        if self.norm is not None:
            _one_of("norm", self.norm, NORMS)
        for key, low, high in (("frames", 1, 10_000_000), ("buffers", 1, 32), ("hold", 0, 60_000),
                               ("full_every", 1, 1 << 30), ("offset", 0, 4095)):  # fmt: skip
            _between(key, getattr(self, key), low, high)
        for word in self.pageout:
            _one_of("pageout", word, _PAGEOUT)
        if self.io != "userptr" and (self.pageout or self.clean or self.offset or self.pool is not None):
            raise UsageError(
                f"capture: pageout, clean, offset and pool go with io='userptr', not {self.io!r}"
            )
        self.dimensions()

    def dimensions(self) -> tuple[int, int]:
        """Width and height.

        :raise UsageError: the size is none, or none of bttv's.
        """
        found = _SIZE.match(self.size) if isinstance(self.size, str) else None
        if not found:
            raise UsageError(f"capture: size={self.size!r}: give width and height, such as '768x576'")
        width, height = int(found[1]), int(found[2])
        if not (_SMALLEST[0] <= width <= _LARGEST[0] and _SMALLEST[1] <= height <= _LARGEST[1]):
            raise UsageError(f"capture: size={self.size!r}: bttv captures from 48x32 to 924x576")
        return width, height

    def picture(self, norm: str) -> Picture:
        """What decides the content of the frames, on a card that sends ``norm``."""
        width, height = self.dimensions()
        return Picture(self.norm or norm, self.format, width, height, self.field)

    def command(self, norm: str) -> list[str]:
        """The words that start the capture program."""
        words = ["vcap-capture", "--device", self.device, "--io", self.io, "--size", self.size]
        words += ["--norm", self.norm or norm, "--format", self.format, "--field", self.field]
        words += ["--frames", str(self.frames), "--buffers", str(self.buffers), "--expect", EXPECT]
        words += ["--full-every", str(self.full_every), "--hold-ms", str(self.hold)]
        words += ["--timeout-ms", str(max(1, round(self.give_up * 1000)))]
        if self.save is not None:
            words += ["--save", str(self.save), self.saved]
        if self.io == "userptr":
            words += ["--pool", str(self.pool or max(16, 4 * self.buffers))]
            words += ["--pageout", ",".join(self.pageout)] if self.pageout else []
            words += ["--clean"] if self.clean else []
            words += ["--offset", str(self.offset)] if self.offset else []
        return words


def _one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"capture: {key}={value!r}{did_you_mean(str(value), known)}")


def _between(key: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"capture: {key}={value!r}: give a number from {low} to {high}")


@dataclass(frozen=True)
class CaptureResult:
    """What became of the frames.

    :ivar wanted: frames that were asked for.
    :ivar captured: good ones that came; ``intact`` of them hold just what the card sent.
    :ivar torn: made of two frames; ``damaged``: stale, misplaced or changed bytes.
    :ivar dropped: sent by the card and never seen by the program.
    :ivar failed: given back by the driver with the error flag; not among the captured.
    :ivar per_second: frames a second between the first and the last.
    :ivar swapped_pages: buffer pages that were seen swapped out.
    :ivar bad: the first damaged places, as the guest located them.
    :ivar status: the program's exit status, minus the signal's number where one ended it.
    :ivar failure: why the capture did not come to its end; None when it did.
    """

    wanted: int
    captured: int
    intact: int
    torn: int
    damaged: int
    dropped: int
    failed: int
    per_second: float
    swapped_pages: int
    status: int
    failure: str | None
    bad: tuple[Json, ...] = ()
    events: tuple[Json, ...] = field(default=(), repr=False)
    stderr: str = field(default="", repr=False)

    @property
    def summary(self) -> Json:
        """The program's last event, with all its counters; empty where it did not come so far."""
        return next((one for one in reversed(self.events) if one.get("event") == "summary"), {})


class RunningCapture:
    """A capture that is under way; made by ``guest.start_capture(...)``.

    :param turn: lets guest and card speak, once.
    """

    def __init__(self, options: CaptureOptions, turn: Callable[[], None]) -> None:
        self.options = options
        self._turn = turn
        self._told = Capture()
        self._events: list[Json] = []
        self._result: CaptureResult | None = None
        self.process: Process

    def line(self, text: str) -> None:
        """One line of the program's output."""
        self._told.line(text)
        with suppress(ValueError, RecursionError):
            event = json.loads(text)
            if isinstance(event, dict) and len(self._events) < _MOST_EVENTS:
                self._events.append(event)

    @property
    def frames(self) -> Frames:
        """The counters so far; they are told a few times a second."""
        return self._told.frames

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self.process.status is None

    def wait(self, timeout: float | None = None) -> CaptureResult:
        """Wait for its end; it is given up after ``timeout`` seconds, or 90 s without any new frame.

        :raise UsageError: the driver cannot capture what was asked for.
        :raise GuestTimeoutError: it did not end in time (it is killed then).
        :raise GuestCrash: the guest's kernel failed meanwhile.
        """
        begin = time.monotonic()
        stall = Stall(begin)
        try:
            while self.running:
                self._turn()
                now = time.monotonic()
                stall.check(self.frames.captured + self.frames.errors, now)
                if timeout is not None and now - begin > timeout:
                    raise GuestTimeoutError(
                        f"the capture did not end within {timeout:g} s: {self.frames.captured} of"
                        f" {self.options.frames} frames had come"
                    )
        except GuestError:
            self.process.kill(signal.SIGKILL)
            raise
        return self.result()

    def wait_frames(self, count: int, timeout: float = 60.0) -> None:
        """Wait until at least ``count`` frames have come, good or failed, or the capture has ended.

        :raise GuestTimeoutError: they did not come within ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while self.running and self.frames.captured + self.frames.errors < count:
            self._turn()
            if time.monotonic() > end:
                raise GuestTimeoutError(
                    f"only {self.frames.captured} of {count} frames came in {timeout:g} s"
                )

    def stop(self) -> CaptureResult:
        """End the program, and give what it has told so far.

        :raise GuestTimeoutError: it does not end: a system call of it hangs in the driver.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.process.kill(number)
            end = time.monotonic() + _END
            while self.running and time.monotonic() < end:
                self._turn()
        if self.running:
            raise GuestTimeoutError(
                "the capture program does not end when it is killed: it hangs in the driver"
            )
        return self.result()

    def result(self) -> CaptureResult:
        """What became of the frames, once it has ended.

        :raise UsageError: the driver cannot capture what was asked for.
        """
        if self._result is None:
            status, frames = self.process.status, self.frames
            if status is None:
                raise GuestError("the capture is still under way; wait() for its end")
            failure = explain_exit(status, self.process.stderr, frames)
            self._result = CaptureResult(
                self.options.frames, frames.captured, frames.intact, frames.torn, frames.damaged,
                frames.dropped, frames.errors, frames.per_second, self._told.swapped_pages, status, failure,
                tuple(frames.bad), tuple(self._events), self.process.stderr,
            )  # fmt: skip
        return self._result
