# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --gdb``: the guest stands until a person has connected gdb, and whenever gdb holds it.

QEMU's stub listens at a socket in the run's private directory. The kernel lies where it was linked
(``nokaslr``), and where its modules lie the guest's sysfs tells once they are loaded; a script for gdb is
made of that (QEMU's docs/system/gdb.rst; the kernel's Documentation/dev-tools/gdb-kernel-debugging.rst).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vcapdev.errors import GuestError
from vcapdev.image.modules import ModuleTree, canonical, read_image
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared
from vcapdev.run.screen import Screen
from vcapdev.vm.agent import Agent
from vcapdev.vm.machine import Vm

SOCKET = "gdb"
PARAMETER = "nokaslr"
_SCRIPT = "gdb-commands"
_LOOK = 0.1  # seconds between two questions whether the guest runs
_SECTIONS = "for f in /sys/module/*/sections/.[a-z]*; do echo $f $(cat $f); done"
_SECTION = re.compile(r"/sys/module/(\w+)/sections/(\.[\w.]+) (0x[0-9a-f]+)")
_TOLD = (".data", ".bss", ".rodata")  # beside .text; the kernel has freed .init.text by then

Sections = dict[str, dict[str, str]]  # by module: where each section lies


def arguments(options: RunOptions, work: Path) -> list[str]:
    """What QEMU is given."""
    if not options.gdb:
        return []
    stop = ["-S"] if options.gdb == "boot" else []
    return ["-gdb", f"unix:{work / SOCKET},server=on,wait=off", *stop]


class Debugger:
    """Waits for gdb, and tells whoever has a deadline how long the guest has stood.

    :param excuse: called with seconds that do not count.
    """

    def __init__(
        self,
        options: RunOptions,
        prepared: Prepared,
        vm: Vm,
        screen: Screen,
        excuse: Callable[[float], None],
    ) -> None:
        self._options, self._prepared = options, prepared
        self._vm, self._screen, self._excuse = vm, screen, excuse
        self._work = vm.config.workdir
        self._looked = time.monotonic()
        self._asking = False

    @property
    def wanted(self) -> bool:
        """Whether anybody debugs."""
        return bool(self._options.gdb)

    def booting(self) -> None:
        """Say how to connect to a guest that stands before its first instruction."""
        if self._options.gdb == "boot":
            self._tell({}, "before its first instruction")

    def loaded(self, agent: Agent) -> None:
        """The driver is loaded: say how to connect with its symbols, and wait until gdb lets the guest go on.

        :raise GuestError: the guest ends meanwhile.
        """
        sections = sections_of(agent.run(["sh", "-c", _SECTIONS]).stdout)
        if self._options.gdb == "boot":
            self._screen.show("in gdb, for the driver's symbols: source " + str(self._write(sections)))
            return
        self._vm.qmp.execute("stop")
        self._tell(sections, "with its driver loaded")
        while not self._running():
            agent.pump(_LOOK)

    def turn(self) -> None:
        """At each turn of a wait: time in which gdb holds the guest does not count."""
        now = time.monotonic()
        if self._asking or now - self._looked < _LOOK:
            return
        passed, self._looked = now - self._looked, now
        self._asking = True
        try:
            if not self._running():
                self._excuse(passed)
        except GuestError:
            pass  # it has ended: whoever waits for it hears of that by himself
        finally:
            self._asking = False

    def _running(self) -> bool:
        return bool(self._vm.qmp.execute("query-status")["running"])

    def _tell(self, sections: Sections, where: str) -> None:
        script = self._write(sections, connect=True)
        vmlinux = self.vmlinux()
        words = ["gdb", "-x", str(script), *([str(vmlinux)] if vmlinux is not None else [])]
        self._screen.show(f"the guest stands {where}; 'continue' in gdb lets it go on:")
        self._screen.show(f"  {shlex.join(words)}")
        if vmlinux is None:
            release = self._prepared.guest.release
            self._screen.show(
                f"without symbols of the kernel itself: install linux-image-{release}-dbg, and add\n"
                f"  --vmlinux /usr/lib/debug/boot/vmlinux-{release}"
            )

    def vmlinux(self) -> Path | None:
        """The kernel with its symbols, where there is one."""
        if self._options.vmlinux is not None:
            return self._options.vmlinux
        built = self._options.kdir / "vmlinux" if self._options.kdir is not None else None
        return built if built is not None and built.is_file() else None

    def _write(self, sections: Sections, *, connect: bool = False) -> Path:
        path = self._work / _SCRIPT
        socket = self._work / SOCKET if connect else None
        path.write_text(script_of(sections, self._files(sections), socket), encoding="utf-8")
        return path

    def _files(self, names: Iterable[str]) -> dict[str, Path]:
        """Each module's file on the host, decompressed where need be: gdb cannot."""
        tree = ModuleTree(self._prepared.guest.modules)
        own = {canonical(name): path for name, path in self._prepared.overrides.items()}
        found: dict[str, Path] = {}
        for name in names:
            path = own.get(name)
            if path is None and (stock := tree.load(name)) is not None:
                path = stock.source
            if path is None:
                continue
            if path.suffix != ".ko":
                plain = self._work / f"{name}.ko"
                plain.write_bytes(read_image(path))
                path = plain
            found[name] = path
        return found


def sections_of(text: str) -> Sections:
    """Read what the guest says about its modules: a line for each section."""
    found: Sections = {}
    for module, section, address in _SECTION.findall(text):
        found.setdefault(module, {})[section] = address
    return found


def script_of(sections: Sections, files: Mapping[str, Path], socket: Path | None) -> str:
    """Commands for gdb: the modules' symbols at their places, and the connection.

    :param socket: where QEMU listens; None for a gdb that is connected already.
    """
    lines = ["set confirm off", "set pagination off", "set architecture i386:x86-64"]
    for name, path in files.items():
        places = sections[name]
        if ".text" in places:
            more = [f"-s {section} {places[section]}" for section in _TOLD if section in places]
            lines.append(" ".join([f"add-symbol-file {_quoted(path)} {places['.text']}", *more]))
    if socket is not None:
        lines.append(f"target remote {_quoted(socket)}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    text = str(path)
    return text if re.fullmatch(r"[\w./+-]+", text) else '"' + text.replace('"', '\\"') + '"'
