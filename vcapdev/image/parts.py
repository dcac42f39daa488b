# SPDX-License-Identifier: GPL-2.0-or-later
"""Which modules the capture driver consists of, which source files each is made of, and how they are laid out
for a build outside the kernel's tree.

bttv captured through videobuf until Linux 6.5, and captures through videobuf2 since 6.6 (commit b7ec3212a73a,
"media: bttv: convert to vb2"); its private header says which.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vcapdev.errors import SetupError, UsageError

_V4L2 = "drivers/media/v4l2-core"
_VB2 = "drivers/media/common/videobuf2"
_BTTV = "drivers/media/pci/bt8xx"
#: Modules that can be built: name -> patterns of their files in the kernel's source.
PARTS: dict[str, tuple[str, ...]] = {
    "videobuf-core": (f"{_V4L2}/videobuf-core.c",),
    "videobuf-dma-sg": (f"{_V4L2}/videobuf-dma-sg.c",),
    "videobuf2-common": tuple(f"{_VB2}/{name}.c" for name in ("videobuf2-core", "frame_vector", "vb2-trace")),
    "videobuf2-memops": (f"{_VB2}/videobuf2-memops.c",),
    "videobuf2-v4l2": (f"{_VB2}/videobuf2-v4l2.c",),
    "videobuf2-dma-sg": (f"{_VB2}/videobuf2-dma-sg.c",),
    "bttv": (f"{_BTTV}/bttv*.[ch]", f"{_BTTV}/btcx-risc.[ch]", f"{_BTTV}/bt848.h"),
}
#: Modules of several objects: their Makefile lists them.
_COMPOSITE = {"videobuf2-common": f"{_VB2}/Makefile", "bttv": f"{_BTTV}/Makefile"}


def module_of(file: str) -> str | None:
    """The module that a file of the kernel's source belongs to; None when it is none of ours."""
    matching = (name for name, globs in PARTS.items() if any(fnmatchcase(file, glob) for glob in globs))
    return next(matching, None)


def driver_modules(source: Path) -> list[str]:
    """The modules that this kernel's bttv consists of, dependencies first."""
    header = source / _BTTV / "bttvp.h"
    new = header.is_file() and b"videobuf2" in header.read_bytes()
    other = "videobuf-" if new else "videobuf2-"
    return [name for name in PARTS if not name.startswith(other) and module_files(source, name)]


def module_files(source: Path, module: str) -> list[str]:
    """Files of a module that this kernel's source has, sorted."""
    found = {path for glob in PARTS[module] for path in source.glob(glob)}
    return sorted(path.relative_to(source).as_posix() for path in found)


def touched_modules(source: Path, files: Iterable[str] | None) -> list[str]:
    """Which modules are made of ``files``; all that this kernel's bttv is made of when it is None.

    :raise UsageError: when a file belongs to none of them.
    """
    present = driver_modules(source)
    if files is None:
        return present
    found: dict[str, None] = {}
    for file in files:
        name = module_of(file)
        if name not in present or not (source / file).is_file():
            raise UsageError(f"the diff changes {file}, which is in no module of {', '.join(present)}")
        found[name] = None
    return list(found)


def prepare_build(source: Path, build: Path, modules: Sequence[str]) -> None:
    """Lay out a directory for an external build: the sources of ``modules``, flat, and a Kbuild file."""
    build.mkdir(exist_ok=True)
    lines = ["obj-m := " + " ".join(f"{module}.o" for module in modules)]
    for module in modules:
        for file in module_files(source, module):
            shutil.copyfile(source / file, build / Path(file).name)
        if module in _COMPOSITE:
            objects = module_objects(source / _COMPOSITE[module], module)
            lines.append(f"{module}-objs := {' '.join(objects)}")
    (build / "Kbuild").write_text("\n".join(lines) + "\n")


def module_objects(makefile: Path, module: str) -> list[str]:
    """The objects that a kernel Makefile links into ``module``. :raise SetupError: when it lists none.

    What it lists under a condition is taken: Debian's kernels have tracepoints, the only one there is.
    """
    text = makefile.read_text().replace("\\\n", " ")
    lists = re.findall(rf"^\s*{re.escape(module)}-(?:objs|y)\s*[:+]?=\s*(.*)$", text, re.M)
    if not lists:
        raise SetupError(f"the kernel's Makefile does not say what {module} is made of")
    return [word for line in lists for word in line.split()]
