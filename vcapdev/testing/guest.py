# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a card, as a test sees it: commands, files, modules, captures, memory pressure.

::

    with Guest(config_from({"kernel": "bookworm-6.1", "swap": "disk"})) as guest:
        with guest.pressure("pageout", every="50ms"):
            result = guest.capture(frames=50, size="768x576", format="YUYV")
        assert result.intact == 50
        guest.card.dma.assert_clean()
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from vcapdev.bt878.faults import BY_RUNNER
from vcapdev.errors import GuestError, UsageError
from vcapdev.gallery.stage import expected_file
from vcapdev.image.foreign import FOREIGN, foreign_program
from vcapdev.progress import Progress
from vcapdev.run.capture import EXPECT, vmstat
from vcapdev.testing import pressure as pressing
from vcapdev.testing.another import AnotherCard
from vcapdev.testing.bus import Bus
from vcapdev.testing.capture import CaptureKeywords, CaptureOptions, CaptureResult, RunningCapture
from vcapdev.testing.card import Card
from vcapdev.testing.config import GuestConfig, did_you_mean
from vcapdev.testing.living import LivingGuest
from vcapdev.testing.modules import module_file
from vcapdev.testing.opening import Opener, open_pair
from vcapdev.vm.agent import GuestTimeoutError, Process

_COMMAND = 60.0  # seconds for a command


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    command: str
    status: int  # exit status, or minus the number of the signal that ended it
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.status == 0

    @property
    def lines(self) -> list[str]:
        """Its standard output, line by line."""
        return self.stdout.splitlines()


class CommandError(GuestError):
    """A command in the guest failed, and somebody had said that it must not."""


class Guest(LivingGuest):
    """One guest and its card.

    :ivar bus: the card's place on the PCI bus: bind, unbind, plug, unplug.
    :ivar another: its second card, once :meth:`plug_another` has put one in.
    """

    def __init__(
        self,
        config: GuestConfig | None = None,
        *,
        opener: Opener = open_pair,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(config, opener=opener, progress=progress)
        self.bus = Bus(self)
        self.another: AnotherCard | None = None
        self._carrying = False  # out a fault

    def plug_another(self, board: str | None = None, norm: str = "PAL") -> Card:
        """Put a second card in; it stays until the guest ends. Its nodes are /dev/video1 and /dev/vbi1.

        :raise UsageError: the guest has no second slot, see :data:`vcapdev.testing.another.ANOTHER_SLOT`.
        :raise GuestError: the driver does not find it.
        """
        if self._work is None or self.another is not None:
            raise GuestError("there is a second card already" if self.another else "the guest is off")
        self.another = AnotherCard(self, self._work, board, norm)
        self.another.plug()
        return self.another.card

    def _close(self) -> None:
        another, self.another = self.another, None
        if another is not None:
            with suppress(GuestError):
                self.card.dma.keep(another.card.dma.unexpected)
        try:
            super()._close()
        finally:
            if another is not None:
                another.close()

    @property
    def cards(self) -> list[Card]:
        """Its card, and the second one where it has one."""
        return [self.card] if self.another is None else [self.card, self.another.card]

    # -- commands and files

    def run(self, command: str | Sequence[str], *, timeout: float = _COMMAND, check: bool = False) -> Result:
        """Run a command to its end: text is for the guest's shell, a list is a program and its words.

        :param check: whether another exit status than 0 is an error.
        :raise CommandError: with ``check``, it failed.
        :raise GuestTimeoutError: it did not end within ``timeout`` seconds (it is killed then).
        :raise GuestCrash: the guest's kernel failed meanwhile.
        """
        words = _words(command)
        with self._asked() as agent:
            process = agent.spawn(words)
            self._processes.append(process)  # the test's end waits for it, should it hang in the kernel
            try:
                done = process.wait(timeout)
            except GuestTimeoutError:
                process.kill(signal.SIGKILL)
                raise
            self._processes.remove(process)
        result = Result(command if isinstance(command, str) else shlex.join(words), *done)
        if check and not result.ok:
            last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise CommandError(f"{result.command!r} in the guest ended with status {result.status}: {last}")
        return result

    def spawn(
        self, command: str | Sequence[str], *, on_stdout: Callable[[str], None] | None = None
    ) -> Process:
        """Start a command and go on; it is killed at the test's end. Its output is told line by line."""
        with self._asked() as agent:
            process = agent.spawn(_words(command), on_stdout=on_stdout)
        self._processes.append(process)
        return process

    def push(self, local: str | Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        """Copy a file of the host (text or path), or bytes, into the guest.

        :raise UsageError: there is no such file.
        :raise AgentError: the guest cannot write it.
        """
        if isinstance(local, str):
            local = Path(local)
        if isinstance(local, Path) and not local.is_file():
            raise UsageError(f"push: {local} is no file")
        with self._asked() as agent:
            agent.push(local, remote, mode=mode)

    def bring(self, name: str) -> str:
        """Copy a program that guests do not have into this one; the first time it is fetched (PyPI).

        :param name: one of ``vcapdev.image.foreign.FOREIGN``: "ffmpeg", which takes 80 MB of the guest's RAM.
        :return: its path in the guest.
        :raise UsageError: there is no such program. :raise SetupError: it cannot be fetched.
        :raise AgentError: the guest cannot write it, as where it has too little memory.
        """
        if name not in FOREIGN:
            raise UsageError(f"bring: there is no program {name!r}{did_you_mean(name, list(FOREIGN))}")
        remote = f"/tmp/{name}"
        self.push(foreign_program(FOREIGN[name], self._progress), remote, mode=0o755)
        return remote

    def pull(self, remote: str, local: str | Path | None = None) -> bytes:
        """The content of a guest's file (also below /proc and /sys); kept in ``local``, too, if given.

        :raise AgentError: the guest cannot read it.
        """
        with self._asked() as agent:
            data = agent.pull(remote)
        if local is not None:
            Path(local).write_bytes(data)
        return data

    # -- modules

    def load(self, module: str | Path, **parameters: str | int) -> None:
        """Load a module: one that was unloaded, another of the image by its name, or a file of the host.

        :raise UsageError: the file is no module, or was built for another kernel.
        :raise DriverError: the guest's kernel refuses it.
        """
        words = [f"{name}={value}" for name, value in parameters.items()]
        with self._asked() as agent:
            drivers = self._loaded()
            if isinstance(module, Path) or "/" in module or module.endswith(".ko"):
                file = module_file(Path(module), self.release)
                remote = f"/tmp/{file.name}.ko"
                agent.push(file.image, remote)
                drivers.insert(file.name, remote, words)
            else:
                drivers.load_one(module, words)

    def unload(self, module: str = "bttv") -> None:
        """Unload a module and all that use it.

        :raise DriverError: the guest's kernel refuses: it is in use, or not loaded.
        """
        with self._asked():
            self._loaded().unload_one(module)

    def modules(self) -> list[str]:
        """Names of the modules that are loaded."""
        text = self.pull("/proc/modules").decode("ascii", "replace")
        return [line.split()[0] for line in text.splitlines() if line.strip()]

    @property
    def release(self) -> str:
        """The kernel's, as ``uname -r`` has it."""
        with self._asked() as agent:
            return str((agent.hello or {}).get("release", ""))

    # -- captures and pressure

    def capture(
        self, frames: int = 10, *, timeout: float | None = None, **options: Unpack[CaptureKeywords]
    ) -> CaptureResult:
        """Capture ``frames`` frames, each compared with what the card sent.

        Keywords are those of :class:`vcapdev.testing.capture.CaptureOptions`: ``io``, ``size``, ``format``,
        ``norm``, ``field``, ``buffers``, ....

        :raise UsageError: a keyword or a value that cannot be, or that the driver refuses.
        :raise GuestError: the capture hangs, or the guest has died.
        """
        return self.start_capture(frames, **options).wait(timeout)

    def start_capture(self, frames: int = 10, **options: Unpack[CaptureKeywords]) -> RunningCapture:
        """The same, without waiting for its end."""
        wanted = capture_options(frames, options)
        norm = self.config.norm
        with self._asked() as agent:
            agent.push(expected_file(wanted.picture(norm)), EXPECT)
            running = RunningCapture(wanted, self.turn)
            running.process = agent.spawn(wanted.command(norm), on_stdout=running.line)
        self._processes.append(running.process)
        return running

    def pressure(
        self, kind: str, every: str | float | None = None, *, percent: int = 100
    ) -> pressing.Pressure:
        """Memory pressure for the length of a ``with`` block.

        ``"pageout"`` swaps the memory of all programs out that have a capture device open, ``"hog"`` takes
        ``percent`` of the available memory and keeps touching it, ``"compact"`` makes the kernel move
        pages, ``"drop-caches"`` makes it let go of its caches, ``"sync"`` write dirty pages back.

        :param every: the time between two rounds, such as ``"50ms"`` (the default; not for "hog").
        :raise UsageError: no such kind, or a guest without the swap that it needs.
        """
        words = pressing.command(kind, every, percent, self.config.swap)

        def spawn(argv: list[str], on_stdout: Callable[[str], None]) -> Process:
            with self._asked() as agent:
                return agent.spawn(argv, on_stdout=on_stdout)

        return pressing.Pressure(words, spawn, self.turn, lambda: self.vmstat()["pswpout"])

    def vmstat(self) -> dict[str, int]:
        """The guest's /proc/vmstat."""
        with self._asked() as agent:
            return vmstat(agent)

    # -- inside

    def _heard(self, event: dict[str, Any]) -> None:
        """Carry out a fault that the card has told of and cannot commit itself."""
        armed = self.card.armed
        if event.get("event") != "fault" or armed is None or armed.name not in BY_RUNNER or self._carrying:
            return
        armed.carried_out(event)
        self._carrying = True
        try:
            {"unplug": self.bus.unplug, "device-killed": self.bus.replace_device}[armed.name]()
        finally:
            self._carrying = False


def _words(command: str | Sequence[str]) -> list[str]:
    if isinstance(command, str):
        return ["sh", "-c", command]
    if not command or not all(isinstance(word, str) for word in command):
        raise UsageError(f"a command is text, or a list of texts, not {command!r}")
    return list(command)


def capture_options(frames: int, options: Mapping[str, Any]) -> CaptureOptions:
    """Keywords of ``guest.capture(...)``, checked.

    :raise UsageError: an unknown one, or a value that cannot be.
    """
    known = list(CaptureOptions.__dataclass_fields__)
    for key in options:
        if key not in known:
            raise UsageError(f"capture: there is no keyword {key!r}{did_you_mean(key, known)}")
    if "pageout" in options:
        given = options["pageout"]
        options = {**options, "pageout": (given,) if isinstance(given, str) else tuple(given)}
    wanted = CaptureOptions(frames=frames, **options)
    wanted.check()
    return wanted
