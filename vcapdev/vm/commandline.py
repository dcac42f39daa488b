# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line of a guest. Pure: a configuration goes in, words come out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vcapdev.errors import UsageError

AGENT_PORT = "vcap.agent"  # guest/src/vcap-agent.c looks for this name
CARD_SLOT = "cardslot"  # id of the port behind which a card is plugged
CARD_ADDRESS = "0000:01:00.0"  # of the card in it: the guest has no other bridge
SWAP_SERIAL = "vcapswap"  # guest/init looks for this one
MSG_TIMEOUT = 30000  # milliseconds; the client's default of 5000 is lost for good when exceeded once
SOCKET_PATH_LIMIT = 107  # bytes, sockaddr_un

# What every guest gets. An oops is made a panic and a panic a reboot at once, which QEMU turns into a pause:
# so memory stays as it was for whoever wants to look, and the host is told by a SHUTDOWN event.
BASE_PARAMETERS = ("console=ttyS0", "page_poison=1", "oops=panic", "panic=-1")

# Behind a vIOMMU: translate for every device, and tear mappings down at once instead of in batches, so that
# each arrives before dma_unmap() returns. (Linux does so by itself where caching-mode is on, but for 5.10.)
IOMMU_PARAMETERS = ("intel_iommu=on", "iommu=nopt", "iommu.strict=1")


class QemuBinary(Protocol):
    """How to start QEMU; ``vcapdev.vm.qemu.Qemu`` is one."""

    @property
    def argv(self) -> Sequence[str]:
        """The words that the options follow (loader, libraries, program, data directories)."""


@dataclass
class VmConfig:
    """A guest, before it is started."""

    qemu: QemuBinary
    accel: str  # "kvm" or "tcg"
    kernel: Path
    initrd: Path
    workdir: Path  # for sockets, console and logs; must exist; short, since socket paths are limited
    append: str = ""  # added behind the product's own kernel parameters
    memory_mib: int = 256
    cpus: int = 1
    card_socket: Path | None = None  # the vfio-user server's
    swap: str = "none"  # "none", "disk", or "zram:MIB"
    swap_disk: Path | None = None  # for "disk"; created sparse, and removed again, where it does not exist
    swap_disk_mib: int = 512
    extra_args: list[str] = field(default_factory=list)  # added behind QEMU's options
    iommu: bool = False  # an Intel vIOMMU between RAM and the devices
    interactive: bool = False  # a shell on this terminal instead of a console in a file
    slot: bool = False  # the card's place is a slot that it is plugged into while the guest runs
    snapshot: Path | None = None  # go on from this one (vcapdev.vm.snapshot), whose guest had a slot

    @property
    def console_log(self) -> Path:
        return self.workdir / "console.log"

    @property
    def qemu_log(self) -> Path:
        return self.workdir / "qemu.log"

    @property
    def agent_socket(self) -> Path:
        return self.workdir / "agent"

    @property
    def runner_qmp(self) -> Path:
        return self.workdir / "qmp"

    @property
    def checker_qmp(self) -> Path:
        return self.workdir / "qmp-pause"


def kernel_parameters(config: VmConfig) -> str:
    """The guest's kernel command line: ours, then the user's."""
    words = [*BASE_PARAMETERS, *(IOMMU_PARAMETERS if config.iommu else ())]
    if config.swap != "none":
        words.append(f"vcap.swap={config.swap}")
    if config.interactive:
        words.append("vcap.shell")
    return " ".join([*words, *config.append.split()])


def build_command_line(config: VmConfig) -> list[str]:
    """All words of the command that starts the guest.

    :raise UsageError: when the swap is unknown or a socket's path is too long for the operating system.
    """
    _check_swap(config)
    for path in (config.checker_qmp, config.card_socket):
        if path is not None and len(str(path).encode()) > SOCKET_PATH_LIMIT:
            raise UsageError(f"{path} is too long for a socket; set TMPDIR to a shorter directory")
    return [
        *config.qemu.argv,
        *_machine(config),
        *_start(config),
        *_iommu(config),
        *_console(config),
        *_channels(config),
        *_swap_disk(config),
        *(_slot() if has_slot(config) else _card(config)),
        *config.extra_args,
    ]


def _machine(config: VmConfig) -> list[str]:
    # With rdrand the kernel has random numbers at once; without, mkswap waits a second for them.
    return [
        *("-name", "vcapdev", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
        *("-machine", "q35,memory-backend=ram,vmport=off,usb=off", "-accel", config.accel),
        *("-cpu", "host" if config.accel == "kvm" else "qemu64,+rdrand"),
        *("-smp", str(config.cpus), "-m", f"{config.memory_mib}M", "-object", _ram(config)),
        *("-action", "reboot=shutdown" if config.interactive else "reboot=shutdown,shutdown=pause"),
    ]


def _ram(config: VmConfig) -> str:
    # RAM behind a sealed memfd: the device process maps it, and must be sure that it cannot shrink. Where it
    # is saved or restored it is ours, and comes as standard input: that number is known beforehand.
    size = f"size={config.memory_mib}M,share=on"
    if has_slot(config):
        return f"memory-backend-file,id=ram,{size},mem-path=/proc/self/fd/0"
    return f"memory-backend-memfd,id=ram,{size},seal=on"


def _start(config: VmConfig) -> list[str]:
    if config.snapshot is not None:
        return ["-incoming", "defer"]  # kernel and initramfs are in RAM
    kernel, initrd = str(config.kernel), str(config.initrd)
    return ["-kernel", kernel, "-initrd", initrd, "-append", kernel_parameters(config)]


def _iommu(config: VmConfig) -> list[str]:
    # Before any device that it serves. Without caching-mode QEMU ends when the guest switches it on: the card
    # would not hear of new mappings. (QEMU, hw/i386/intel_iommu.c, vtd_iommu_notify_flag_changed)
    # Interrupts are not its business: Linux 5.10 finds no timer behind a remapped IO-APIC.
    return ["-device", "intel-iommu,caching-mode=on,intremap=off"] if config.iommu else []


def _console(config: VmConfig) -> list[str]:
    log = _escape(config.console_log)
    if config.interactive:
        # Ctrl-C goes to the guest; with mux=on, Ctrl-A X ends QEMU.
        backend = f"stdio,id=console,signal=off,mux=on,logfile={log}"
    else:
        append = ",append=on" if config.snapshot is not None else ""
        backend = f"file,id=console,path={log}{append}"
    return ["-chardev", backend, "-serial", "chardev:console"]


def _channels(config: VmConfig) -> list[str]:
    words = [
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={_escape(config.agent_socket)},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]
    for path in (config.runner_qmp, config.checker_qmp):
        words += ["-qmp", f"unix:{_escape(path)},server=on,wait=off"]
    return words


def _swap_disk(config: VmConfig) -> list[str]:
    if config.swap_disk is None:
        return []
    # Nobody reads it after the guest's end, so nothing of it need ever reach a real disk.
    drive = f"file={_escape(config.swap_disk)},format=raw,if=none,id=swap,cache=unsafe"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive=swap,serial={SWAP_SERIAL}"]


def _card(config: VmConfig) -> list[str]:
    return [] if config.card_socket is None else ["-device", json.dumps(card_device(config.card_socket))]


def card_device(socket: Path) -> dict[str, Any]:
    """The card whose device process listens at ``socket``: options of ``-device``, or of device_add."""
    address = {"type": "unix", "path": str(socket)}
    return {"driver": "vfio-user-pci", "socket": address, "x-msg-timeout": MSG_TIMEOUT}


def has_slot(config: VmConfig) -> bool:
    """Whether the card is plugged while the guest runs: q35 allows that below a port only."""
    return config.slot or config.snapshot is not None


def _slot() -> list[str]:
    return ["-device", f"pcie-root-port,id={CARD_SLOT},chassis=1"]


def _check_swap(config: VmConfig) -> None:
    kind, _, size = config.swap.partition(":")
    known = config.swap in ("none", "disk") or (kind == "zram" and size.isdigit() and int(size) > 0)
    if not known:
        raise UsageError(f"unknown swap {config.swap!r}: use none, disk or zram:MIB")
    if config.swap == "disk" and config.swap_disk is None:
        raise UsageError("swap 'disk' needs a path for the disk")


def _escape(path: Path) -> str:
    """A path in a comma-separated QEMU option: commas are doubled."""
    return str(path).replace(",", ",,")
