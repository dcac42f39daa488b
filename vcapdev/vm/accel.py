# SPDX-License-Identifier: GPL-2.0-or-later
"""Which accelerator runs the guest: KVM if it is proved to work, else TCG.

A /dev/kvm that opens proves nothing: there are hosts where it does, real-mode code even runs, and 64-bit
code is so slow that a kernel never gets through its decompression. So the probe is a tiny ROM that goes to
long mode with paging, counts down, and reports through isa-debug-exit; real KVM needs hundredths of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.apttool import die_with_parent
from vcapdev.image.cache import Cache, digest, write_atomic
from vcapdev.workdir import workdir

REQUESTS = ("auto", "kvm", "tcg")
DEADLINE = 3.0  # seconds for the probe, QEMU's start included
_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_EXIT = 85  # isa-debug-exit: (0x2a << 1) | 1

# The ROM's code, at F000:FF00, and its listing. The page tables map the first 2 MiB onto themselves.
_CODE = bytes.fromhex(
    "fa 31c0 8ed8"  # cli; xor ax,ax; mov ds,ax
    "66c706001003200000"  # mov dword [1000h], 2003h      PML4[0]
    "66c706002003300000"  # mov dword [2000h], 3003h      PDPT[0]
    "66c706003083000000"  # mov dword [3000h], 83h        PD[0]: 2 MiB page
    "2e660f011688ff"  # lgdt [cs:gdtr]
    "0f20e0 0c20 0f22e0"  # cr4 |= PAE
    "66b800100000 0f22d8"  # cr3 = 1000h
    "66b9800000c0 0f32 80cc01 0f30"  # EFER |= LME
    "0f20c0 660d01000080 0f22c0"  # cr0 |= PG | PE
    "66ea59ff0f000800"  # jmp 8:000fff59h
    "b980f0fa02 31c0"  # mov ecx, 50000000; xor eax,eax   64-bit code from here
    "01c8 ffc9 75fa"  # 1: add eax,ecx; dec ecx; jnz 1b
    "3d4098754f 7504"  # cmp eax, the sum modulo 2^32; jne 2f
    "b02a e6f4"  # mov al,2ah; out 0f4h,al
    "f4 ebfd"  # 2: hlt; jmp 2b
    "0f1f4000"  # padding
    "0000000000000000 ffff0000009baf00"  # gdt: null, 64-bit code
    "0f00 78ff0f00"  # gdtr: limit, linear address of gdt
)
_RESET = bytes.fromhex("ea00ff00f0")  # at FFFF:FFF0: jmp F000:FF00, the alias below 1 MiB


@dataclass(frozen=True)
class Accel:
    """The accelerator ("kvm" or "tcg") and why it was chosen, as a phrase for people."""

    name: str
    why: str


class HasArgv(Protocol):
    """What is needed of a QEMU: the start of its command line."""

    @property
    def argv(self) -> Sequence[str]: ...


def choose_accel(qemu: HasArgv, request: str = "auto", *, cache: Cache | None = None) -> Accel:
    """KVM or TCG. ``auto`` proves KVM once per boot of this machine; never takes longer than the deadline.

    :raise UsageError: unknown request. :raise SetupError: "kvm" was asked for and does not work.
    """
    if request not in REQUESTS:
        raise UsageError(f"accelerator {request!r} is not one of {', '.join(REQUESTS)}")
    if request == "tcg":
        return Accel("tcg", "as asked for")
    problem = _known_problem(list(qemu.argv), cache if cache is not None else Cache())
    if request == "kvm" and problem:
        raise SetupError(f"KVM does not work here: {problem}; leave the accelerator to 'auto' or ask for tcg")
    if problem:
        return Accel("tcg", f"no KVM: {problem}")
    return Accel("kvm", "KVM ran a 64-bit test program to its end")


def _known_problem(argv: list[str], cache: Cache) -> str:
    """Why KVM cannot be used, "" if it can; proved at most once per boot for one QEMU."""
    if not _KVM.exists():
        return f"{_KVM} does not exist"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} may not be opened by this user (adding the user to group kvm usually helps)"
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return prove_kvm(argv)
    kept = cache.root / "probes" / f"kvm-{digest(*argv)[:24]}.json"
    try:
        data = json.loads(kept.read_text(encoding="utf-8"))
        if data["boot"] == boot:
            return str(data["problem"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet
    problem = prove_kvm(argv)
    with contextlib.suppress(OSError):  # it is asked again then
        write_atomic(kept, json.dumps({"boot": boot, "problem": problem}) + "\n")
    return problem


def prove_kvm(argv: Sequence[str], deadline: float = DEADLINE) -> str:
    """Run the test program with KVM; "" if it ended well within ``deadline`` seconds, else what happened."""
    return run_probe([*argv, "-accel", "kvm", "-cpu", "host"], deadline)


def run_probe(argv: Sequence[str], deadline: float) -> str:
    """Run the test ROM on a QEMU with an accelerator chosen; "" or what went wrong. Ends what it started."""
    with workdir("probe") as directory:
        rom = directory / "probe.rom"
        rom.write_bytes(probe_rom())
        command = [
            *argv,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "2"),
            *("-machine", "q35", "-bios", str(rom), "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]
        with tempfile.TemporaryFile() as log:
            status = _run(command, log.fileno(), deadline)
            log.seek(0)
            said = log.read(4096).decode(errors="replace").strip().splitlines()
    if status == _EXIT:
        return ""
    if status is None:
        return f"a 64-bit test program does not come to its end in {deadline:g} s"
    return f"QEMU ended with status {status} ({said[-1] if said else 'no message'})"


def probe_rom() -> bytes:
    """The test program as a ROM of 64 KiB."""
    rom = bytearray(b"\xf4" * 0x10000)
    rom[0xFF00 : 0xFF00 + len(_CODE)] = _CODE
    rom[0xFFF0 : 0xFFF0 + len(_RESET)] = _RESET
    return bytes(rom)


def _run(command: Sequence[str], log: int, deadline: float) -> int | None:
    """The exit status, None when it had to be killed."""
    try:
        process = subprocess.Popen(
            die_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    except OSError:
        return 127
    try:
        return process.wait(deadline)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()  # harmless when it has ended: Popen knows
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: we do not wait for that
            process.wait(deadline)
