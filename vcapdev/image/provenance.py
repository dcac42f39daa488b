# SPDX-License-Identifier: GPL-2.0-or-later
"""What modules in the place of stock ones are: which file, what compiled it, which packages it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache
from vcapdev.image.elf import Elf, ElfError
from vcapdev.image.modules import parse_modinfo, read_image
from vcapdev.image.sources import KernelVersion, headers_key

Json = dict[str, Any]

_SOURCES = {"src": "linux-headers-*", "lib": "linux-kbuild-*"}  # below usr/; named as their packages are


def describe_modules(overrides: Mapping[str, Path]) -> list[Json]:
    """``name``, ``sha256`` of the file, ``vermagic`` and ``compiler`` of each module, sorted by name.

    The compiler is what the module's own .comment says, "" where it says nothing.

    :raise SetupError: a module that cannot be read.
    """
    return [_module(name, path) for name, path in sorted(overrides.items())]


def _module(name: str, path: Path) -> Json:
    image = read_image(path)
    try:
        comment = Elf(image).section(".comment") or b""
    except ElfError as error:
        raise SetupError(f"{path} is no module: {error}") from None
    compilers = dict.fromkeys(text.decode("utf-8", "replace") for text in comment.split(b"\0") if text)
    return {
        "name": name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "vermagic": parse_modinfo(image).vermagic,
        "compiler": ", ".join(compilers),
    }


def packages_of_build(kernel: KernelVersion, cache: Cache) -> list[Json]:
    """``name`` and ``version`` of the packages that altered drivers of a kernel are built from.

    All are of the kernel's own version, or nothing is built. Once the headers have gone from the cache, while
    what was built from them is still there, only the packages are named whose names are known without them.
    """
    headers = cache.lookup("headers", headers_key(kernel))
    names = {f"linux-headers-{kernel.release}", f"linux-source-{kernel.series}"}
    if headers is not None:
        names |= {
            found.name for place, glob in _SOURCES.items() for found in headers.glob(f"usr/{place}/{glob}")
        }
    return [{"name": name, "version": kernel.version} for name in sorted(names)]
