# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the QEMU command line: what the guest, the device process and the checker rely on is in it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcapdev.errors import UsageError
from vcapdev.vm.commandline import VmConfig, build_command_line, kernel_parameters


def config(**changes: object) -> VmConfig:
    values: dict[str, object] = {
        "qemu": SimpleNamespace(argv=["loader", "qemu-system-x86_64"]),
        "accel": "tcg",
        "kernel": Path("/k/vmlinuz"),
        "initrd": Path("/k/initrd"),
        "workdir": Path("/run/v"),
    }
    return VmConfig(**(values | changes))  # type: ignore[arg-type]


def after(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_it_begins_with_how_to_start_qemu_and_ends_with_the_users_words() -> None:
    words = build_command_line(config(extra_args=["-device", "edu"]))
    assert words[:2] == ["loader", "qemu-system-x86_64"]
    assert words[-2:] == ["-device", "edu"]


def test_guest_ram_is_a_sealed_shared_memfd() -> None:
    (ram,) = after(build_command_line(config(memory_mib=384)), "-object")
    assert ram == "memory-backend-memfd,id=ram,size=384M,share=on,seal=on"


def test_a_panic_keeps_the_memory() -> None:
    words = build_command_line(config())
    assert after(words, "-action") == ["reboot=shutdown,shutdown=pause"]
    assert {"oops=panic", "panic=-1"} <= set(kernel_parameters(config()).split())


def test_kernel_parameters_are_appended_never_replaced() -> None:
    text = kernel_parameters(config(append="page_poison=0  foo=bar", swap="zram:128"))
    assert text.split() == [
        *("console=ttyS0", "page_poison=1", "oops=panic", "panic=-1"),
        *("vcap.swap=zram:128", "page_poison=0", "foo=bar"),
    ]


def test_a_viommu_comes_before_the_devices_that_it_serves() -> None:
    words = build_command_line(config(iommu=True, card_socket=Path("/run/v/card"), append="iommu=pt"))
    devices = after(words, "-device")
    assert devices[0] == "intel-iommu,caching-mode=on,intremap=off"
    assert "vfio-user-pci" in devices[-1]
    parameters = kernel_parameters(config(iommu=True, append="iommu=pt")).split()
    assert {"intel_iommu=on", "iommu=nopt", "iommu.strict=1"} <= set(parameters)
    assert parameters[-1] == "iommu=pt", "the user's words come last, and win"


def test_without_one_the_guest_is_told_nothing_of_it() -> None:
    assert "iommu" not in " ".join([*build_command_line(config()), kernel_parameters(config())])


def test_the_card_waits_longer_than_qemu_would_by_default() -> None:
    words = build_command_line(config(card_socket=Path("/run/v/card,1")))
    device = json.loads(after(words, "-device")[-1])
    assert device == {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": "/run/v/card,1"},
        "x-msg-timeout": 30000,
    }


def test_the_swap_disk_is_found_by_its_serial_and_never_flushed() -> None:
    words = build_command_line(config(swap="disk", swap_disk=Path("/run/v/a,b")))
    assert "file=/run/v/a,,b,format=raw,if=none,id=swap,cache=unsafe" in after(words, "-drive")
    assert "virtio-blk-pci,drive=swap,serial=vcapswap" in after(words, "-device")


def test_two_qmp_sockets_and_the_agents_port() -> None:
    words = build_command_line(config())
    assert after(words, "-qmp") == [f"unix:/run/v/{n},server=on,wait=off" for n in ("qmp", "qmp-pause")]
    assert "virtserialport,chardev=agent,name=vcap.agent" in after(words, "-device")


def test_an_interactive_guest_has_its_shell_here_and_goes_off_when_it_ends() -> None:
    interactive = config(interactive=True)
    words = build_command_line(interactive)
    assert "vcap.shell" in kernel_parameters(interactive).split()
    assert any(word.startswith("stdio,id=console,signal=off") for word in after(words, "-chardev"))
    assert after(words, "-action") == ["reboot=shutdown"]


@pytest.mark.parametrize("swap", ["zram", "zram:", "zram:x", "zram:0", "file", "disk:1"])
def test_an_unknown_swap_is_refused(swap: str) -> None:
    with pytest.raises(UsageError, match="unknown swap"):
        build_command_line(config(swap=swap))


def test_a_swap_disk_without_a_path_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a path"):
        build_command_line(config(swap="disk"))


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(UsageError, match="too long for a socket; set TMPDIR"):
        build_command_line(config(workdir=Path("/" + "d" * 100)))
