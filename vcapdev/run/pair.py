# SPDX-License-Identifier: GPL-2.0-or-later
"""A device process and the guest that has its card: started together, watched together, ended for certain.

Whoever starts a thing ends it: the guest goes first (by its process id, without asking when the device is
dead, since QEMU may then hang in a register access), then the device.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from vcapdev.errors import GuestError
from vcapdev.progress import Progress, Silent
from vcapdev.run import debugger, nursery
from vcapdev.run.device import DeviceProcess
from vcapdev.run.options import RunOptions
from vcapdev.run.placement import together
from vcapdev.run.prepare import Prepared
from vcapdev.serve.options import ServeOptions
from vcapdev.vm.agent import Agent, AgentError
from vcapdev.vm.commandline import CARD_ADDRESS, VmConfig
from vcapdev.vm.machine import Vm
from vcapdev.vm.snapshot import snapshot_of
from vcapdev.vm.watch import GuestCrash

_BOOT = 180.0  # seconds; 6 on an idle machine without KVM
_ATTACH = 30.0  # seconds for the checker to find the guest's kernel; 1 on an idle machine
_DRIVER = 10.0  # seconds for a driver to take up a card that was plugged; 0.3 on an idle machine
_LOOK = 0.003  # seconds between two questions whether the checker knows the kernel, or a driver is there
_TURN = 0.1  # seconds between two looks at whether all children live
#: Seconds that buffers may stay pinned after the device was closed, and a failure be held back.
PATIENCE = 3.0


class WatchedVm(Vm):
    """A guest whose every wait also notices the end of the device process.

    :ivar on_turn: called at each turn of a wait, too.
    :ivar survives: told of each complaint of the kernel after which it goes on: True ends no wait.
    """

    def __init__(self, config: VmConfig, device: DeviceProcess) -> None:
        super().__init__(config)
        self._device = device
        self.on_turn: Callable[[], None] = lambda: None
        self.survives: Callable[[GuestCrash], bool] = lambda crash: False

    def check(self) -> None:
        self._device.check()
        try:
            super().check()
        except GuestCrash as crash:
            if crash.fatal or not self.survives(crash):
                raise
        self.on_turn()


class Pair:
    """Device and guest. ``work`` is a directory for sockets and logs; its path must be short.

    Unless ``options`` say ``cold``, the guest goes on from a snapshot, which is made now if there is none. A
    guest that cannot be saved is booted: what is wrong with it shows then, where it is reported.

    :param alone: no other pair will follow in this process: a nursery would not be worth its while.
    :raise SetupError: the disk is full, and so on.
    """

    def __init__(
        self,
        options: RunOptions,
        prepared: Prepared,
        work: Path,
        progress: Progress | None = None,
        *,
        alone: bool = False,
    ) -> None:
        config = vm_config(options, prepared, work)
        if not options.cold and not options.shell:
            config.snapshot = _snapshot(
                config, options.kernel, progress if progress is not None else Silent()
            )
        self._alone, forked = alone, False
        if config.snapshot is not None and not alone:
            nursery.warm().meet(config.snapshot, config.memory_mib << 20)
            forked = True
        self.device = DeviceProcess(serve_options(options, work), work / "device.log", forked=forked)
        self.vm = WatchedVm(config, self.device)

    def start(self) -> Agent:
        """Start device and guest, and wait until the guest answers and the checker knows its kernel.

        A checker that cannot find it is no error here: whoever judges will say so.

        :raise GuestError: the guest did not come up.
        """
        if self.vm.config.snapshot is None:
            self.device.start()
            self.vm.start()
            agent = self.vm.wait_agent(_BOOT)
        else:
            agent = self._restore()
        end = time.monotonic() + _ATTACH
        while not self.device.call("check-status", timeout=_ATTACH)["attached"] and time.monotonic() < end:
            agent.pump(_LOOK)
        return agent

    def _restore(self) -> Agent:
        """Have the guest go on from its snapshot, with the card plugged and its driver bound."""
        self.device.launch()
        self.vm.start()
        self.device.connect()
        self.vm.plug_card()
        # The driver asks the card's I2C bus bit by bit: a thousand reads, each waiting for its answer.
        pids = [pid for pid in (self.vm.pid, self.device.pid) if pid is not None]
        with nullcontext() if self._alone else together(pids):
            self.device.call("attach", timeout=_ATTACH)
            agent = self.vm.wait_agent(_BOOT)
            wait_driver(agent, CARD_ADDRESS, _DRIVER)
        return agent

    def stop(self) -> None:
        """End guest and device; harmless when repeated."""
        self.vm.stop(ask=self.device.running)
        self.device.stop()

    def hear_out(self, agent: Agent) -> None:
        """A failure of the last moment is held back until its story is complete: do not end before that.

        :raise GuestCrash: the failure.
        """
        end = time.monotonic() + PATIENCE
        while self.vm.watch.pending and time.monotonic() < end:
            agent.pump(_TURN)

    def pins_left(self, agent: Agent) -> int:
        """Give the kernel some time to let go of the buffers, then have the rest judged; how many pages."""
        end = time.monotonic() + PATIENCE
        while not self.device.call("settle", final=False).get("settled") and time.monotonic() < end:
            agent.pump(_TURN)
        return int(self.device.call("settle", final=True).get("pinned_pages") or 0)

    def why_gone(self, error: GuestError) -> GuestError:
        """QEMU's channels close a moment before its end can be noticed: say how it ended."""
        end = time.monotonic() + PATIENCE
        while self.vm.poll() is None and time.monotonic() < end:
            time.sleep(_TURN)
        try:
            self.vm.check()
        except GuestError as better:
            return better
        return error


def _snapshot(config: VmConfig, name: str, progress: Progress) -> Path | None:
    """What the guest goes on from; None when that cannot be had."""
    try:
        return snapshot_of(config, progress, name=name)
    except GuestError as error:
        progress.finish(f"no snapshot: {error}")
        return None


def wait_driver(agent: Agent, address: str, seconds: float) -> bool:
    """Wait until a driver has taken up the PCI device at ``address``; False when none did in time.

    Its directory comes with the device, the link to a driver before that driver is asked. Whoever writes to
    ``driver_override`` waits for the device's lock, and so for the driver's answer; a line without a name
    leaves it as it is. (``power/control`` would do as well, but not every kernel has CONFIG_PM.)
    """
    place = f"/sys/bus/pci/devices/{address}"
    end = time.monotonic() + seconds
    while not _exists(agent, f"{place}/driver"):
        if time.monotonic() > end:
            return False
        agent.pump(_LOOK)
    agent.push(b"\n", f"{place}/driver_override")
    return True


def _exists(agent: Agent, path: str) -> bool:
    """Whether there is such a directory in the guest, without starting a program."""
    try:
        agent.pull(path)
    except AgentError as error:
        return os.strerror(errno.EISDIR) in str(error)
    return True


def _vmlinux(options: RunOptions) -> Path | None:
    """The debug file for a user's kernel: the one given, else his tree's when the kernel has no BTF."""
    if options.vmlinux is not None or options.kdir is None:
        return options.vmlinux
    config, vmlinux = options.kdir / "include/config/auto.conf", options.kdir / "vmlinux"
    chosen = config.read_text().splitlines() if config.is_file() else []
    needed = "CONFIG_DEBUG_INFO=y" in chosen and "CONFIG_DEBUG_INFO_BTF=y" not in chosen
    return vmlinux if needed and vmlinux.is_file() else None


def serve_options(options: RunOptions, work: Path) -> ServeOptions:
    """How the device process is started."""
    return ServeOptions(
        socket_path=work / "card",
        control=work / "control",
        qmp=work / "qmp-pause",
        board=options.board,
        revision=options.revision,
        norm=options.norm,
        clock=options.clock,
        hold=options.on_violation != "continue",
        audit=options.audit,
        audit_seed=options.audit_seed,
        iommu=f"{options.memory}M" if options.iommu else None,
        vmlinux=_vmlinux(options),
        with_parent=True,
    )


def vm_config(options: RunOptions, prepared: Prepared, work: Path) -> VmConfig:
    """How the guest is started."""
    disk = options.swap == "disk"
    return VmConfig(
        qemu=prepared.qemu,
        accel=prepared.accel.name,
        kernel=prepared.kernel,
        initrd=prepared.initrd,
        workdir=work,
        append=f"{options.append} {debugger.PARAMETER}" if options.gdb else options.append,
        memory_mib=options.memory,
        cpus=options.cpus,
        card_socket=work / "card",
        swap=f"zram:{options.memory}" if options.swap == "zram" else options.swap,
        swap_disk=work / "swap" if disk else None,
        extra_args=[*debugger.arguments(options, work), *options.qemu_opts],
        iommu=options.iommu,
        interactive=options.shell,
    )
