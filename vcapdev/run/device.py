# SPDX-License-Identifier: GPL-2.0-or-later
"""The device process (``vcapdev serve``) as a child: started, asked, and ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import vcapdev
from vcapdev.errors import ExitStatus, GuestError, SetupError, UsageError, VcapdevError
from vcapdev.run import nursery
from vcapdev.serve.client import ControlClient, DeviceGoneError
from vcapdev.serve.options import ServeOptions

_START = 20.0  # seconds for the process to open its sockets
_QUIT = 3.0  # seconds for each step of the way from asking to killing

Json = dict[str, Any]


class DeviceProcess:
    """A context manager: leaving it ends the process.

    :param forked: it comes from the nursery, which has loaded everything, and so is there at once.
    """

    def __init__(self, options: ServeOptions, log: Path, *, forked: bool = False) -> None:
        self._options = options
        self._log = log
        self._forked = forked
        self._process: subprocess.Popen[bytes] | nursery.Forked | None = None
        if forked:
            nursery.warm()
        self._control: ControlClient | None = None

    def command_line(self) -> list[str]:
        """The command that :meth:`start` runs."""
        return [sys.executable, "-m", "vcapdev", "serve", *self._options.command_line()]

    def __enter__(self) -> DeviceProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and connect to its control channel; it then listens for QEMU.

        :raise VcapdevError: what the process itself complained about.
        """
        self.launch()
        self.connect()

    def launch(self) -> None:
        """Start the process, without waiting until it has come so far that it can be talked to."""
        if self._forked:
            self._log.write_bytes(b"")
            self._process = nursery.spawn(["serve", *self._options.command_line()], self._log)
            return
        environment = dict(os.environ)
        here = str(Path(vcapdev.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH", "")]))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command_line(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=environment,
            )  # fmt: skip

    def connect(self) -> None:
        """Wait for its control channel; it then listens for QEMU.

        :raise VcapdevError: what the process itself complained about.
        """
        assert self._options.control is not None
        try:
            self._control = ControlClient.connect(self._options.control, _START, lambda: self.running)
        except DeviceGoneError as error:
            raise self._start_failure() or error from None
        self.call("subscribe")

    @property
    def sockets(self) -> list[Path]:
        """Where it listens; a killed process leaves them behind."""
        paths = (self._options.socket_path, self._options.control)
        return [path for path in paths if path is not None]

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return None if self._process is None else self._process.pid

    def call(self, command: str, *, timeout: float = 10, **arguments: Any) -> Json:
        """One command of the control channel (docs/control.md).

        :raise GuestError: the device ended, with how, or refused the command.
        """
        if self._control is None:
            raise GuestError("the device process is not running")
        try:
            return self._control.call(command, timeout=timeout, **arguments)
        except DeviceGoneError as error:
            raise self._gone(error) from error

    def events(self) -> list[Json]:
        """Events that arrived since the last look, without waiting.

        :raise GuestError: the device ended, with how; not before its last events were given out.
        """
        if self._control is None:
            return []
        try:
            self._control.poll()
        except DeviceGoneError as error:
            if not self._control.events:
                raise self._gone(error) from error
        events = list(self._control.events)
        self._control.events.clear()
        return events

    def check(self) -> None:
        """Notice the end of the process.

        :raise GuestError: how it ended.
        """
        if self._process is not None and self._process.poll() is not None:
            raise self._gone(DeviceGoneError("the device process ended"))

    def usage(self) -> tuple[float, int]:
        """CPU time in seconds, and memory of its own in bytes: without the guest's RAM that it has mapped.

        Zeros when the process is gone. (proc(5): /proc/PID/stat fields 14 and 15, /proc/PID/status.)
        """
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0, 0
        ticks = int(fields[11]) + int(fields[12])
        own = sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "RssFile:")))
        return ticks / os.sysconf("SC_CLK_TCK"), own * 1024

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status; None before its end."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """End the process by SIGTERM, then SIGKILL; returns when it is gone. Harmless when repeated."""
        process, control = self._process, self._control
        if process is not None and process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_QUIT)
                    break
        if control is not None:
            control.close()
            self._control = None

    def _gone(self, error: DeviceGoneError) -> DeviceGoneError:
        """The same, with how the process ended if it did."""
        process = self._process
        if process is None:
            return error
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)  # its socket closes a moment before it can be waited for
        if process.returncode is None:
            return error
        said = self._last_words()
        return DeviceGoneError(
            f"the device process {_how(process.returncode)}" + (f"; {said}" if said else "")
        )

    def _start_failure(self) -> VcapdevError | None:
        """What ``serve`` itself reported, in the class that its exit status stands for."""
        classes: dict[int, type[VcapdevError]] = {
            ExitStatus.USAGE: UsageError,
            ExitStatus.ENVIRONMENT: SetupError,
        }
        status = None if self._process is None else self._process.poll()
        said = self._last_words().removeprefix("vcapdev: ")
        return classes[status](said) if status in classes and said else None

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


def _how(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was killed by {signal_name(-status)}"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; a real-time signal by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
