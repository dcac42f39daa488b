# SPDX-License-Identifier: GPL-2.0-or-later
"""A made-up kernel for the tests of altered drivers: its packages, and the guest that runs it.

Its "build system" is a Makefile that appends the source to a prepared module, so that a test sees what would
have been compiled; a source with "#error" in it does not compile.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from aptrepo import Repository
from crafted_elf import kernel_image, module

from vcapdev.image.elf import with_section
from vcapdev.image.lock import Package

RELEASE, VERSION = "6.1.0-9-amd64", "6.1.27-1"
VERMAGIC = f"{RELEASE} SMP preempt mod_unload modversions "
PACKAGE_H = f'#define LINUX_PACKAGE_ID " Debian {VERSION}"\n'
V4L2 = "drivers/media/v4l2-core"
#: The lines of videobuf-dma-sg.c (6.1) that the diffs hold on to.
DMA_SG = (
    "static int videobuf_dma_map(struct device *dev, struct videobuf_dmabuf *dma)\n"
    "{\n"
    "\tif (dma->pages) {\n"
    "\t\tdma->sglist = videobuf_pages_to_sg(dma->pages, dma->nr_pages,\n"
    "\t\t\t\t\t\t   dma->offset, dma->size);\n"
    "\t}\n"
    "\tif (dma->vaddr) {\n"
    "\t}\n"
    "\treturn 0;\n"
    "}\n"
    "\n"
    "int videobuf_dma_free(struct videobuf_dmabuf *dma)\n"
    "{\n"
    "\tif (dma->pages) {\n"
    "\t\tunpin_user_pages_dirty_lock(dma->pages, dma->nr_pages,\n"
    "\t\t\t\t\t    dma->direction == DMA_FROM_DEVICE);\n"
    "\t\tkfree(dma->pages);\n"
    "\t\tdma->pages = NULL;\n"
    "\t}\n"
    "}\n"
)
SOURCES = {
    "linux-source-6.1/arch/x86/big.c": "no",
    f"linux-source-6.1/{V4L2}/videobuf-core.c": "core",
    f"linux-source-6.1/{V4L2}/videobuf-dma-sg.c": DMA_SG,
    f"linux-source-6.1/{V4L2}/v4l2-dev.c": "no",
    "linux-source-6.1/drivers/media/pci/bt8xx/Makefile": "bttv-objs := bttv-driver.o \\\n\tbttv-risc.o\n",
    "linux-source-6.1/drivers/media/pci/bt8xx/bttv-driver.c": "driver",
    "linux-source-6.1/drivers/media/pci/bt8xx/bttv-risc.c": "risc",
    "linux-source-6.1/fs/ext4/ext4.c": "no",
}
COMMON_MAKEFILE = """\
modules:
	@echo "  CC [M]  something"
	@! grep -H '#error' $(M)/*.c || { echo "$(M)/x.c:1:2: error: as wished" >&2; exit 1; }
	@for ko in $(KO)/*.ko; do n=$$(basename $$ko .ko); test ! -f $(M)/$$n.c || \\
		cat $$ko $(M)/$$n.c > $(M)/$$n.ko; done
	@cat $(KO)/bttv.ko $(M)/Kbuild > $(M)/bttv.ko
	@cp $(KO)/built.symvers $(M)/Module.symvers
KO := $(dir $(lastword $(MAKEFILE_LIST)))/ko
"""


@dataclass
class Made:
    """The made-up guest."""

    release: str
    kernel: Path
    modules: Path
    root: Path
    packages: list[Package]


def stock_module(name: str) -> bytes:
    """A module as the kernel's package has it: with type information."""
    return with_section(
        module(name.replace("-", "_"), vermagic=VERMAGIC), ".BTF", f"types of {name}".encode()
    )


def made_guest(place: Path) -> Made:
    """The guest, with its modules and kernel below ``place``."""
    modules = place / "modules" / RELEASE
    (modules / "kernel").mkdir(parents=True)
    for name in ("videobuf-core", "videobuf-dma-sg", "bttv"):
        (modules / f"kernel/{name}.ko").write_bytes(stock_module(name))
    kernel = place / "vmlinuz"
    kernel.write_bytes(kernel_image(f"{RELEASE} (a@b) #1 SMP Debian {VERSION} (2023-05-08)"))
    package = Package(f"linux-image-{RELEASE}", VERSION, "0" * 64, "bookworm")
    return Made(RELEASE, kernel, modules, place, [package])


def source_archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return lzma.compress(stream.getvalue())


def add_kernel(repository: Repository, **changed: bytes | None) -> None:
    """Headers, build tools and source of the made-up kernel; ``changed`` files replace or drop some."""
    said = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    major = said.strip().split(".")[0]
    headers = f"usr/src/linux-headers-{RELEASE}"
    common = "usr/src/linux-headers-6.1.0-9-common"
    tools = ("basic/fixdep", "mod/modpost", "genksyms/genksyms")
    prepared = {
        f"{common}/ko/{name}.ko": module(name.replace("-", "_"), vermagic=VERMAGIC)
        for name in ("videobuf-core", "videobuf-dma-sg", "bttv")
    }
    files = {
        "headers": {
            f"{headers}/Makefile": f"include /{common}/Makefile\n".encode(),
            f"{headers}/.config": f'CONFIG_CC_VERSION_TEXT="gcc-{major} (Debian) {major}.1.0"\n'.encode(),
            f"{headers}/Module.symvers": b"0x11\tvideobuf_dma_map\tvideobuf-dma-sg\tEXPORT_SYMBOL_GPL\t\n",
            f"{headers}/include/generated/package.h": PACKAGE_H.encode(),
        },
        "common": {
            f"{common}/Makefile": COMMON_MAKEFILE.encode(),
            f"{common}/ko/built.symvers": b"0x11\tvideobuf_dma_map\tx\tEXPORT_SYMBOL_GPL\t\n",
            f"{common}/arch/arm/big.h": b"",
            f"{common}/arch/x86/small.h": b"",
            **prepared,
        },
    }
    for group in files.values():
        for name in list(group):
            for part, content in changed.items():
                if Path(name).name.replace(".", "_").replace("-", "_") == part and content is not None:
                    group[name] = content
    kbuild = {f"usr/lib/linux-kbuild-6.1/scripts/{tool}": b"#!/bin/sh\nexit 1\n" for tool in tools}
    depends = (
        "linux-headers-6.1.0-9-common (= 6.1.27-1), linux-kbuild-6.1 (>= 6.1.27-1), linux-compiler-gcc-12-x86"
    )
    repository.add(f"linux-headers-{RELEASE}", VERSION, files["headers"], depends=depends)
    repository.add("linux-headers-6.1.0-9-common", VERSION, files["common"])
    repository.add("linux-kbuild-6.1", VERSION, kbuild)
    if "no_source" not in changed:
        tarball = {"usr/src/linux-source-6.1.tar.xz": changed.get("source") or source_archive(SOURCES)}
        repository.add("linux-source-6.1", VERSION, tarball)
    else:
        repository.add("linux-source-6.1", "6.1.30-1", {"usr/src/linux-source-6.1.tar.xz": b""})
    repository.publish()
