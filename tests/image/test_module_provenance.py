# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says of modules in the place of stock ones is read from modules and headers themselves."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest
from crafted_elf import relocatable

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache
from vcapdev.image.lock import Package, Resolution, dump_lock, read_lock
from vcapdev.image.provenance import describe_modules, packages_of_build
from vcapdev.image.sources import KernelVersion, headers_key

GCC = b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"
KERNEL = KernelVersion("6.1.192-2", "6.1.0-56-amd64", "ab" * 32)


def built(path: Path, name: str, comment: bytes | None = b"\0" + GCC + b"\0" + GCC + b"\0") -> Path:
    sections = {".modinfo": f"name={name}\0vermagic=6.1.0-56-amd64 SMP\0".encode()}
    image = relocatable(sections | ({} if comment is None else {".comment": comment}))
    path.write_bytes(lzma.compress(image) if path.suffix == ".xz" else image)
    return path


def test_a_module_says_what_compiled_it(tmp_path: Path) -> None:
    """A compressed one, too; the checksum is of the file. One that says nothing is no error."""
    bttv = built(tmp_path / "bttv.ko.xz", "bttv")
    sg = built(tmp_path / "my.ko", "videobuf_dma_sg", None)
    first, second = describe_modules({"videobuf_dma_sg": sg, "bttv": bttv})
    assert first == {
        "name": "bttv",
        "sha256": hashlib.sha256(bttv.read_bytes()).hexdigest(),
        "vermagic": "6.1.0-56-amd64 SMP",
        "compiler": GCC.decode(),
    }
    assert (second["name"], second["compiler"]) == ("videobuf_dma_sg", "")


def test_what_is_no_module_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bttv.ko"
    path.write_bytes(b"\x7fELF, it says")
    with pytest.raises(SetupError, match=r"bttv\.ko") as caught:
        describe_modules({"bttv": path})
    assert "\n" not in str(caught.value)


def test_the_packages_of_a_build_are_those_of_its_headers(tmp_path: Path) -> None:
    """All in the kernel's version; the build tools have a name of their own on each Debian."""
    cache = Cache(tmp_path / "cache")
    certain = ["linux-headers-6.1.0-56-amd64", "linux-source-6.1"]
    assert [one["name"] for one in packages_of_build(KERNEL, cache)] == certain, "the headers were let go"

    def headers(into: Path) -> None:
        for name in (
            "src/linux-headers-6.1.0-56-amd64",
            "src/linux-headers-6.1.0-56-common",
            "lib/linux-kbuild-6.1",
        ):
            (into / "usr" / name).mkdir(parents=True)

    cache.entry("headers", headers_key(KERNEL), headers)
    found = packages_of_build(KERNEL, cache)
    assert [one["name"] for one in found] == sorted(
        [*certain, "linux-headers-6.1.0-56-common", "linux-kbuild-6.1"]
    )
    assert {one["version"] for one in found} == {"6.1.192-2"}


def test_a_lock_file_that_tells_of_a_build_pins_as_ever(tmp_path: Path) -> None:
    package = Package("linux", "6.1-1", "ab" * 32, "bookworm", 5, "amd64", "main", "pool/l/linux.deb")
    resolution = Resolution("bookworm-6.1", "k" * 64, (package,))
    text = dump_lock([resolution], {"mutant": "no-dirty", "built_from": [{"name": "x", "version": "1"}]})
    assert json.loads(text)["built"]["mutant"] == "no-dirty"
    path = tmp_path / "packages.lock"
    path.write_text(text)
    assert read_lock(path, "bookworm-6.1") == resolution
    assert "built" not in json.loads(dump_lock([resolution]))
