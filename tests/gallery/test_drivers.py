# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the exchange of modules: users are unloaded first, and all comes back in the image's order."""

from __future__ import annotations

import lzma
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vcapdev.gallery.drivers import DriverError, Drivers, parse_listed, parse_users, with_users

LISTED = """kernel/mc/mc.ko
kernel/v4l2-core/videobuf-core.ko
kernel/v4l2-core/videobuf-dma-sg.ko
# a remark
kernel/bt8xx/bttv.ko card=77 radio=0
/lib/extra/zram.ko
"""
LOADED = """bttv 131072 0 - Live 0x0
videobuf_dma_sg 20480 1 bttv, Live 0x0
videobuf_core 32768 2 bttv,videobuf_dma_sg, Live 0x0
mc 65536 1 bttv, Live 0x0
zram 40960 1 - Live 0x0
"""


class Guest:
    """Stands for an agent: remembers what is loaded, and the commands."""

    def __init__(self) -> None:
        self.hello = {"release": "6.1"}
        self.commands: list[str] = []
        self.pushed: list[str] = []
        self.refuse = ""

    def pull(self, path: str) -> bytes:
        return (LISTED if path == "/etc/modules" else LOADED).encode()

    def push(self, content: bytes, remote: str) -> None:
        self.pushed.append(f"{content.decode()}:{remote}")

    def run(self, words: list[str], **_: Any) -> Any:
        text = " ".join(words)
        if words[0] != "mkdir":
            self.commands.append(text)
        failed = bool(self.refuse) and self.refuse in text
        return SimpleNamespace(status=int(failed), stderr="it is in use" if failed else "")


def test_the_lists_are_read_as_the_kernel_names_modules() -> None:
    listed = parse_listed(LISTED, "6.1")
    assert [one.name for one in listed] == ["mc", "videobuf_core", "videobuf_dma_sg", "bttv", "zram"]
    assert listed[3].path == "/lib/modules/6.1/kernel/bt8xx/bttv.ko"
    assert listed[3].parameters == "card=77 radio=0"
    assert listed[4].path == "/lib/extra/zram.ko"
    assert parse_users(LOADED)["videobuf_core"] == ["bttv", "videobuf_dma_sg"]


def test_users_go_first_and_what_is_not_loaded_is_let_be() -> None:
    users = parse_users(LOADED)
    assert with_users(["videobuf_core"], users) == ["bttv", "videobuf_dma_sg", "videobuf_core"]
    assert with_users(["videobuf2_common", "bttv"], users) == ["bttv"]


def file(directory: Path, name: str) -> Path:
    """A module's file that holds its name."""
    path = directory / f"{name}.ko"
    path.write_text(name)
    return path


def test_a_variant_takes_the_place_of_its_modules_only(tmp_path: Path) -> None:
    guest = Guest()
    drivers = Drivers(guest)  # type: ignore[arg-type]
    files = {"videobuf-dma-sg": file(tmp_path, "sg")}
    drivers.unload(files)
    assert guest.commands == ["rmmod bttv", "rmmod videobuf_dma_sg"]
    assert not drivers.loaded
    guest.commands.clear()
    drivers.load("early-unpin", files, {"bttv": "vbibufs=4"})
    assert guest.commands == [
        "insmod /tmp/vcap-modules/videobuf_dma_sg.ko",
        "insmod /lib/modules/6.1/kernel/bt8xx/bttv.ko card=77 radio=0 vbibufs=4",
    ]
    assert guest.pushed == ["sg:/tmp/vcap-modules/videobuf_dma_sg.ko"]
    assert (drivers.current, drivers.loaded) == ("early-unpin", True)


def test_a_refusal_of_the_guest_says_which_module_and_why() -> None:
    guest = Guest()
    guest.refuse = "rmmod videobuf_dma_sg"
    drivers = Drivers(guest)  # type: ignore[arg-type]
    with pytest.raises(DriverError, match="rmmod videobuf_dma_sg in the guest: it is in use"):
        drivers.unload({"videobuf-dma-sg": Path("x")})


def test_modules_that_are_no_stock_ones_are_loaded_where_they_are_needed(tmp_path: Path) -> None:
    """And what is compressed is decompressed: the guest's insmod cannot."""
    guest = Guest()
    drivers = Drivers(guest)  # type: ignore[arg-type]
    packed = tmp_path / "helper.ko.xz"
    packed.write_bytes(lzma.compress(b"unpacked"))
    files = {"helper": packed, "bttv": file(tmp_path, "mine"), "last": file(tmp_path, "last")}
    drivers.unload(files)
    guest.commands.clear()
    drivers.load("own", files, {"helper": "debug=1"})
    assert guest.commands == [
        "insmod /tmp/vcap-modules/helper.ko debug=1",
        "insmod /tmp/vcap-modules/bttv.ko card=77 radio=0",
        "insmod /tmp/vcap-modules/last.ko",
    ]
    assert guest.pushed[0] == "unpacked:/tmp/vcap-modules/helper.ko"


def test_what_the_variant_before_had_altered_goes_with_it(tmp_path: Path) -> None:
    guest = Guest()
    drivers = Drivers(guest)  # type: ignore[arg-type]
    core, bttv = {"videobuf-core": file(tmp_path, "core")}, {"bttv": file(tmp_path, "bttv")}
    drivers.unload(core)
    drivers.load("first", core, {})
    guest.commands.clear()
    drivers.unload(bttv)
    assert guest.commands == ["rmmod bttv", "rmmod videobuf_dma_sg", "rmmod videobuf_core"]
    drivers.load("second", bttv, {})
    assert "insmod /lib/modules/6.1/kernel/v4l2-core/videobuf-core.ko" in guest.commands
    guest.commands.clear()
    drivers.unload()
    assert guest.commands == ["rmmod bttv"]
