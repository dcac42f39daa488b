# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest and a device that are not there, for tests of the plugin: no QEMU, no kernel, no waiting.

What a "command" does in this guest:

``say TEXT``       prints TEXT
``false``          ends with status 1
``kernel TEXT``    the kernel says TEXT (several lines: ``\\n``)
``panic``          the kernel panics, and the guest is gone
``finding RULE``   the card breaks a rule
``die``            QEMU ends
``hang``           never ends, but is killed
``stuck``          never ends
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.progress import Progress
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.opening import Opened
from vcapdev.vm.agent import AgentGoneError, GuestTimeoutError, Result
from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.watch import CrashWatch, GuestCrash

Json = dict[str, Any]
BOOTS: list[GuestConfig] = []
STOPS: list[GuestConfig] = []
VMS: list[FakeVm] = []
MODULES = "bttv 4096 0 - Live 0x0\nvideodev 4096 1 bttv, Live 0x0\n"


class FakeDevice:
    """Answers as ``vcapdev serve`` would."""

    def __init__(self) -> None:
        self.running = True
        self.verdicts: list[Json] = []
        self.clock, self.steps, self.fields = "paced", 0, 0
        self.registers = {"INT_STAT": 0x10000800, "INT_MASK": 0xC0B13}
        self.settled = True
        self.queue: list[Json] = []  # of events
        self.signal: Json = {"norm": "PAL", "connected": True}
        self.armed: Json = {}
        self.pages = 100
        self.status: Json = {}  # what the checker says otherwise
        self.asked: list[str] = []
        self.pid: int | None = None
        self.sockets: list[Path] = []

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def call(self, command: str, *, timeout: float = 10, **arguments: Any) -> Json:
        self.asked.append(command)
        if not self.running:
            raise GuestError("the device process was killed by SIGKILL")
        return getattr(self, "do_" + command.replace("-", "_"))(**arguments)

    def events(self) -> list[Json]:
        told, self.queue = self.queue, []
        return told

    def do_new_scene(self) -> Json:
        self.verdicts.clear()
        return {}

    def do_clock(self, mode: str | None = None) -> Json:
        self.clock = mode or self.clock
        left, self.steps = self.steps, max(0, self.steps - 1)
        return {"mode": self.clock, "steps": left, "awaiting_handler": False}

    def do_signal(self, **given: Any) -> Json:
        self.signal |= given
        return self.signal

    def do_step(self, fields: int) -> Json:
        self.steps += fields
        self.fields += fields
        return self.do_clock()

    def do_stats(self) -> Json:
        return {"fields": self.fields, "frames": self.fields // 2, "interrupts": 3, "handshake_timeouts": 0}

    def do_register_read(self, name: str) -> Json:
        return {"value": self.registers[name]}

    def do_register_write(self, name: str, value: int) -> Json:
        self.registers[name] = value
        return {"value": value}

    def do_verdicts(self) -> Json:
        return {"verdicts": self.verdicts}

    def do_settle(self, final: bool) -> Json:
        return {"settled": self.settled}

    def do_check_status(self) -> Json:
        good = {"attached": True, "pages_checked": self.pages, "defects": [], "unchecked_writes": 0}
        return good | self.status

    def do_fault(self, **given: Any) -> Json:
        """Three points of each fault come, but none of "i2c-nack"."""
        if given.get("fault", "") is None:
            self.armed = {}
        elif given:
            seen = 0 if given["fault"] == "i2c-nack" else 3
            self.armed = {**given, "fired": given["at"] <= seen, "seen": seen}
        return self.armed

    def do_access_log(self, last: int) -> Json:
        return {"lines": ["R INT_STAT 0x10000800 RISCS=0x1 RISCI"]}

    def do_timeline(self, record: bool) -> Json:
        return {"events": []}

    def do_dma_log(self, last: int) -> Json:
        return {"lines": ["write: program 1"]}

    def find(self, rule: str) -> None:
        """Break a rule."""
        key = f"vcapdev: {rule} (V0): a page"
        for verdict in self.verdicts:
            if verdict["key"] == key:
                verdict["count"] += 1
                return
        self.verdicts.append({
            "rule": rule, "sentence": "a sentence", "pfn": 1, "instruction": None, "owner": {},
            "evidence": {}, "count": 1, "splat": f"{key}\n  more about it", "key": key,
        })  # fmt: skip


class FakeProcess:
    """A program that has ended, or hangs until it is killed."""

    def __init__(
        self, argv: Sequence[str], result: Result | None, pump: Callable[[], None] = lambda: None
    ) -> None:
        self.argv, self.pid, self._pump = list(argv), 1, pump
        self.status = None if result is None else result.status
        self.stdout = "" if result is None else result.stdout
        self.stderr = "" if result is None else result.stderr

    def wait(self, timeout: float) -> Result:
        self._pump()
        if self.status is None:
            raise GuestTimeoutError(f"waited {timeout:g} s for {self.argv[0]} in the guest")
        return Result(self.status, self.stdout, self.stderr)

    def kill(self, number: int = 15) -> None:
        if self.status is None and self.argv[-1] != "stuck":
            self.status = -number


class FakeAgent:
    """Runs commands in a few words of Python."""

    def __init__(self, vm: FakeVm) -> None:
        self._vm = vm
        self.hello = {"release": "6.1.0-fake"}
        self.pushed: dict[str, bytes] = {}

    def pump(self, timeout: float = 0.0) -> None:
        self._vm.check()
        if self._vm.dead:
            raise AgentGoneError("QEMU closed the channel to the guest; see its log")

    def wait_for(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        for _ in range(100):
            if done():
                return
            self.pump()
        raise GuestTimeoutError(f"waited {timeout:g} s for {what}; see the console log, or allow more time")

    def run(self, argv: Sequence[str], *, timeout: float = 30) -> Result:
        return self.spawn(argv).wait(timeout)

    def spawn(self, argv: Sequence[str], *, on_stdout: Callable[[str], None] | None = None) -> FakeProcess:
        if argv[0] == "vcap-capture" and on_stdout is not None:
            frames = int(argv[argv.index("--frames") + 1])
            on_stdout(json.dumps({"event": "summary", "frames": frames, "intact": frames, "span_ms": 40}))
            return FakeProcess(argv, Result(0, "", ""))
        if argv[0] == "vcap-pressure" and on_stdout is not None:
            on_stdout('{"event": "progress", "rounds": 1}')
            return FakeProcess(argv, None)
        return FakeProcess(argv, self._perform(argv[-1]), self.pump)

    def push(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        data = local.read_bytes() if isinstance(local, Path) else local
        self.pushed[remote] = data
        if remote == "/dev/kmsg":
            self._vm.log(data.decode().rstrip("\n").removeprefix("<7>"), kernel=False)
        self.pump()

    def pull(self, remote: str) -> bytes:
        self.pump()
        files = {"/proc/modules": MODULES, "/proc/vmstat": "pswpout 7\n", "/etc/modules": "kernel/bttv.ko\n"}
        files["/sys/class/video4linux/vbi0/dev"] = "81:1\n"
        return self.pushed[remote] if remote in self.pushed else files[remote].encode()

    def _perform(self, command: str) -> Result | None:
        word, _, rest = command.partition(" ")
        if word in ("hang", "stuck"):
            return None
        if "/task/" in command:  # vcapdev.testing.hanging
            return Result(0, self._vm.hung.pop(0) if self._vm.hung else "", "")
        if word == "kernel":
            for line in rest.split("\\n"):
                self._vm.log(line)
        elif word == "panic":
            self._vm.log("Kernel panic - not syncing: sysrq triggered crash")
        elif word == "finding":
            self._vm.device.find(rest)
        elif word == "die":
            self._vm.dead = True
        return Result(int(word == "false"), rest + "\n" if word == "say" else "", "")


class FakeQmp:
    """Takes every command."""

    def execute(self, command: str, arguments: Json | None = None, *, timeout: float = 10) -> Json:
        return {}


class FakeVm:
    """A guest with a kernel log."""

    def __init__(self, work: Path, device: FakeDevice) -> None:
        self.console_log = work / "console.log"
        self.console_log.write_text("[    0.000000] Linux version 6.1.0-fake\n")
        ticks = itertools.count()
        self.watch = CrashWatch(ConsoleTail(self.console_log), lambda: float(next(ticks)))
        self.survives: Callable[[GuestCrash], bool] = lambda crash: False
        self.on_turn: Callable[[], None] = lambda: None
        self.device, self.dead = device, False
        self.hung: list[str] = []  # looks at what hangs in the kernel
        self.agent = FakeAgent(self)
        self._clock = itertools.count(1_000_000, 1_000)

    def log(self, text: str, *, kernel: bool = True) -> None:
        usec = next(self._clock)
        self.watch.feed_kmsg(f"{4 if kernel else 12},{usec},{usec},-;{text}\n".encode())

    def check(self) -> None:
        try:
            self.watch.poll()
        except GuestCrash as crash:
            if crash.fatal or not self.survives(crash):
                raise
        self.on_turn()

    def poll(self) -> int | None:
        return 1 if self.dead else None

    @property
    def qmp(self) -> FakeQmp:
        return FakeQmp()

    config = None


class FakePair:
    """Both."""

    def __init__(self, config: GuestConfig, work: Path) -> None:
        self.config = config
        self.device = FakeDevice()
        self.vm = FakeVm(work, self.device)

    def start(self) -> FakeAgent:
        BOOTS.append(self.config)
        VMS.append(self.vm)
        if "warns" in self.config.append:
            self.vm.log("WARNING: CPU: 0 PID: 1 at boot.c:1")
        if "hopeless" in self.config.append:
            raise GuestTimeoutError("waited 180 s for the guest to boot; see the console log")
        if "panics" in self.config.append:
            raise GuestCrash("panic", "Kernel panic - not syncing: VFS", "the log", fatal=True)
        return self.vm.agent

    def stop(self) -> None:
        STOPS.append(self.config)
        self.device.running = False

    def why_gone(self, error: GuestError) -> GuestError:
        return GuestError("QEMU ended with status 1; it said nothing")


def opener(config: GuestConfig, work: Path, progress: Progress) -> Opened:
    """For ``Guest(config, opener=opener)`` and the hook ``pytest_vcapdev_opener``."""
    progress.start("building what is not there")
    progress.finish()
    return Opened(FakePair(config, work), lambda wanted: {})  # type: ignore[arg-type]
