# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest as an object: started, asked, and ended for certain, by its process id."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, Any, Literal

from vcapdev.errors import GuestError, SetupError
from vcapdev.vm.agent import Agent
from vcapdev.vm.commandline import CARD_SLOT, VmConfig, build_command_line, card_device, has_slot
from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.qmp import Qmp, QmpError
from vcapdev.vm.ramimage import new_memory
from vcapdev.vm.restore import Restore
from vcapdev.vm.watch import CrashWatch, GuestCrash

CARD = "card"  # QEMU's id of a card that was plugged
State = Literal["off", "booting", "shell", "crashed", "stopped"]

_CONNECT = 20.0  # seconds for QEMU to open its sockets; a loaded host needs a few
_PLUG = 30.0  # seconds for QEMU and the device process to agree
_QUIT = 2.0  # seconds for each step of the way from asking to killing
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """In QEMU's process before exec: be killed when the parent dies, however it dies (prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Vm:
    """One QEMU process and the channels to it. A context manager: leaving it stops the guest."""

    def __init__(self, config: VmConfig) -> None:
        self.config = config
        self.console_log: Path = config.console_log
        self.checker_qmp: Path = config.checker_qmp
        self.watch = CrashWatch(ConsoleTail(config.console_log))
        self.state: State = "off"
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._memory: int | None = None
        self._agent: Agent | None = None
        self._qmp: Qmp | None = None
        self._made_swap = False
        self._terminal: list[Any] | None = None

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def command_line(self) -> list[str]:
        """The command that :meth:`start` runs.

        :raise UsageError: when the configuration cannot be.
        """
        return build_command_line(self.config)

    def start(self) -> None:
        """Start QEMU and connect to its sockets; the guest boots from then on.

        :raise SetupError: when QEMU cannot be run, or the swap disk not be made.
        :raise GuestError: when it ends at once.
        """
        if self.state != "off":
            raise GuestError(f"the guest was started before (it is {self.state})")
        command = self.command_line()
        self._make_swap_disk()
        self._save_terminal()
        self._log = self.config.qemu_log.open("wb")
        restore = None if self.config.snapshot is None else Restore(self.config, self.watch)
        try:
            if has_slot(self.config):
                self._memory = new_memory(self.config.memory_mib << 20)
            self._process = self._run(command)
            self.state = "booting"
            if restore is not None:  # while QEMU starts
                restore.fill(self.memory)
            self._connect()
            if restore is not None:
                restore.go_on(self.qmp)
        except BaseException:
            self.stop()
            raise

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        interactive = self.config.interactive
        try:
            return subprocess.Popen(
                command,
                stdin=None if interactive else subprocess.DEVNULL if self._memory is None else self._memory,
                stdout=None if interactive else self._log,
                stderr=self._log,
                start_new_session=not interactive,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise SetupError(f"cannot run QEMU ({command[0]}): {error.strerror}") from error

    @property
    def memory(self) -> int:
        """A descriptor of guest RAM; there is one where the guest has a slot, from start to end.

        :raise GuestError: there is none.
        """
        if self._memory is None:
            raise GuestError("the guest's RAM is QEMU's own, or gone")
        return self._memory

    def plug_card(self) -> None:
        """Put the card into its slot; the guest finds it a moment later. Its device process must listen.

        :raise GuestError: QEMU refuses.
        """
        if self.config.card_socket is not None:
            device = card_device(self.config.card_socket) | {"id": CARD, "bus": CARD_SLOT}
            self.qmp.execute("device_add", device, timeout=_PLUG)

    def wait_agent(self, timeout: float = 120.0) -> Agent:
        """Wait until the guest has booted, or goes on from its snapshot, and its agent answers.

        :raise GuestTimeoutError: when it does not within ``timeout`` seconds.
        :raise GuestCrash: when its kernel fails.
        """
        self.agent.greet(timeout)
        if self.config.snapshot is not None:
            self.agent.restored()
        self.state = "shell"
        return self.agent

    @property
    def agent(self) -> Agent:
        """The control channel (answers once the guest has booted)."""
        if self._agent is None:
            raise GuestError("the guest is not running")
        return self._agent

    @property
    def qmp(self) -> Qmp:
        """The runner's own QMP connection."""
        if self._qmp is None:
            raise GuestError("the guest is not running")
        return self._qmp

    @property
    def pid(self) -> int | None:
        """QEMU's process id; None before the start."""
        return None if self._process is None else self._process.pid

    def poll(self) -> int | None:
        """QEMU's exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raise what is wrong with the guest, if anything; the agent calls it at every turn.

        :raise GuestCrash: as :meth:`CrashWatch.poll`.
        :raise GuestError: when QEMU ended.
        """
        try:
            self.watch.poll()
        except GuestCrash as crash:
            if crash.fatal:
                self.state = "crashed"
            raise
        status = self.poll()
        if status is not None and self.state != "stopped":
            self.state = "crashed"
            raise GuestError(f"QEMU {_ended(status)}; {self.qemu_complaint() or 'it said nothing'}")

    def kernel_log(self) -> str:
        """The guest's kernel log so far."""
        return self.watch.log_text()

    def qemu_complaint(self) -> str:
        """The last line that QEMU wrote to its error output, "" for none."""
        lines = ConsoleTail(self.config.qemu_log).last_lines(1)
        return lines[0] if lines else ""

    def stop(self, *, ask: bool = True) -> None:
        """End QEMU, by asking, by SIGTERM, by SIGKILL; returns when it is gone. Harmless when repeated.

        :param ask: False when the device process has died: QEMU may then hang in a register access with its
            lock held, and answer neither QMP nor SIGTERM (docs/agent.md).
        """
        process = self._process
        running = process is not None and process.poll() is None
        if process is not None and running and not (ask and self._ask_to_quit(process)):
            self._kill(process, signal.SIGTERM if ask else signal.SIGKILL)
        self._close_channels()
        self._clean_up()
        self.state = "stopped"

    # -- inside

    def _connect(self) -> None:
        deadline = time.monotonic() + _CONNECT
        try:
            self._qmp = Qmp.connect(self.config.runner_qmp, deadline, lambda: self.poll() is None)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sock.connect(str(self.config.agent_socket))
        except (QmpError, OSError) as error:
            status = self._ending()
            said = self.qemu_complaint()
            if status is not None:
                raise GuestError(
                    f"QEMU {_ended(status)} at its start; {said or 'it said nothing'}"
                ) from error
            raise GuestError(f"QEMU does not open its sockets in {_CONNECT:g} s; {said}") from error
        self.watch.qmp = self._qmp
        self._agent = Agent(
            sock, watch=self.check, on_kmsg=self.watch.feed_kmsg, on_lost=self.watch.kmsg_lost
        )

    def _ending(self) -> int | None:
        """QEMU's exit status, if it is about to end: its sockets close before it is gone."""
        assert self._process is not None
        try:
            return self._process.wait(_QUIT)
        except subprocess.TimeoutExpired:
            return None

    def _ask_to_quit(self, process: subprocess.Popen[bytes]) -> bool:
        if self._qmp is None or self._qmp.closed:
            return False
        try:
            self._qmp.execute("quit", timeout=_QUIT)
            process.wait(_QUIT)
        except (QmpError, subprocess.TimeoutExpired):
            return process.poll() is not None
        return True

    @staticmethod
    def _kill(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
        process.send_signal(first)
        try:
            process.wait(_QUIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_channels(self) -> None:
        with contextlib.suppress(GuestError):
            self.watch.poll()  # what the guest said last
        if self._agent is not None:
            self._agent.close()
        if self._qmp is not None:
            self._qmp.close()
        if self._log is not None:
            self._log.close()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    def _clean_up(self) -> None:
        self._restore_terminal()
        for path in (self.config.agent_socket, self.config.runner_qmp, self.config.checker_qmp):
            path.unlink(missing_ok=True)
        if self._made_swap and self.config.swap_disk is not None:
            self.config.swap_disk.unlink(missing_ok=True)

    def _make_swap_disk(self) -> None:
        path = self.config.swap_disk
        if path is None or path.exists():
            return
        try:
            with path.open("xb") as file:
                self._made_swap = True
                os.truncate(file.fileno(), self.config.swap_disk_mib << 20)
        except OSError as error:
            raise SetupError(f"cannot make the guest's swap disk {path}: {error.strerror}") from error

    def _save_terminal(self) -> None:
        # QEMU puts the terminal into raw mode, and cannot undo that when it is killed.
        if self.config.interactive and sys.stdin.isatty():
            self._terminal = termios.tcgetattr(sys.stdin)

    def _restore_terminal(self) -> None:
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._terminal)
            self._terminal = None


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
