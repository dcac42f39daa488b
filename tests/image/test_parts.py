# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the knowledge of what the driver consists of: old kernels and new ones, files and objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.parts import driver_modules, module_objects, module_of, prepare_build, touched_modules

V4L2 = "drivers/media/v4l2-core"
VB2 = "drivers/media/common/videobuf2"
BTTV = "drivers/media/pci/bt8xx"
FILES = {
    f"{V4L2}/videobuf-core.c": "",
    f"{V4L2}/videobuf-dma-sg.c": "",
    f"{VB2}/Makefile": (
        "videobuf2-common-objs := videobuf2-core.o\nvideobuf2-common-objs += frame_vector.o\n"
        "ifeq ($(CONFIG_TRACEPOINTS),y)\n  videobuf2-common-objs += vb2-trace.o\nendif\n"
    ),
    f"{VB2}/videobuf2-core.c": "core",
    f"{VB2}/frame_vector.c": "vector",
    f"{VB2}/vb2-trace.c": "",
    f"{VB2}/videobuf2-memops.c": "",
    f"{VB2}/videobuf2-v4l2.c": "",
    f"{VB2}/videobuf2-dma-sg.c": "",
    f"{VB2}/videobuf2-vmalloc.c": "",
    f"{BTTV}/Makefile": "bttv-objs := bttv-risc.o\n",
    f"{BTTV}/bttv-risc.c": "",
    f"{BTTV}/bttvp.h": "#include <media/videobuf-dma-sg.h>\n",
    f"{BTTV}/dst.c": "",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A kernel's source of the years that had both frameworks, with bttv on the old one."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def to_vb2(source: Path) -> None:
    (source / f"{BTTV}/bttvp.h").write_text("#include <media/videobuf2-dma-sg.h>\n")


def test_the_driver_is_what_its_own_header_says(source: Path) -> None:
    assert driver_modules(source) == ["videobuf-core", "videobuf-dma-sg", "bttv"]
    to_vb2(source)
    assert driver_modules(source) == [
        *("videobuf2-common", "videobuf2-memops", "videobuf2-v4l2", "videobuf2-dma-sg", "bttv")
    ]


def test_files_belong_to_modules(source: Path) -> None:
    risc = f"{BTTV}/bttv-risc.c"
    assert touched_modules(source, [risc, f"{V4L2}/videobuf-core.c", risc]) == ["bttv", "videobuf-core"]
    for file in ("mm/gup.c", f"{BTTV}/dst.c", f"{BTTV}/bttv-vbi.c", f"{VB2}/videobuf2-core.c"):
        with pytest.raises(UsageError, match=rf"changes {file}, which is in no module of videobuf-core, "):
            touched_modules(source, [file])
    to_vb2(source)
    assert touched_modules(source, [f"{VB2}/frame_vector.c", f"{VB2}/videobuf2-core.c"]) == [
        "videobuf2-common"
    ]
    assert module_of(f"{BTTV}/bttvp.h") == "bttv"


def test_a_build_is_laid_out_flat_with_what_each_module_is_made_of(source: Path) -> None:
    to_vb2(source)
    prepare_build(source, source / "build", ["videobuf2-common", "videobuf2-memops", "bttv"])
    assert {path.name for path in (source / "build").iterdir()} == {
        *("videobuf2-core.c", "frame_vector.c", "vb2-trace.c", "videobuf2-memops.c"),
        *("bttv-risc.c", "bttvp.h", "Kbuild"),
    }
    assert (source / "build/Kbuild").read_text() == (
        "obj-m := videobuf2-common.o videobuf2-memops.o bttv.o\n"
        "videobuf2-common-objs := videobuf2-core.o frame_vector.o vb2-trace.o\n"
        "bttv-objs := bttv-risc.o\n"
    )


def test_objects_are_read_from_continued_lines(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("bttv-objs      :=      a.o b.o \\\n\t\t       c.o\n\nobj-m += bttv.o\n")
    assert module_objects(makefile, "bttv") == ["a.o", "b.o", "c.o"]
    with pytest.raises(SetupError, match="what cx88 is made of"):
        module_objects(makefile, "cx88")
