# SPDX-License-Identifier: GPL-2.0-or-later
"""What was worked out of a kernel's own tables, kept for the next attachment to the same kernel.

Unpacking kallsyms and finding where each BTF type begins costs most of the time of an attachment. Both depend
on nothing but the bytes of the table, so their hash is the key: no guest can make another's kernel be read
wrongly, and kernels without a BUILD-ID are served alike. A file begins with the hash of what follows: one
that is damaged counts as absent. Where nothing can be written, everything is simply worked out again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from vcapdev.paths import cache_dir

DIRECTORY = "kernels"  # in the cache; vcapdev cache lists and prunes it
_VERSION = b"1"  # of what is kept; another one when its meaning changes
_LEAST = 1 << 18  # bytes of a table that are worth a file
_MOST_FILES = 32  # some 2 MB each: a guest may make up as many kernels as it likes
_MOST_SIZE = 64 << 20
_HASH = 32


def remembered(kind: str, parts: Iterable[bytes], work_out: Callable[[], bytes]) -> bytes:
    """``work_out()``, or what it gave when it was last asked for the same ``parts``.

    What ``work_out`` raises is raised and not kept.
    """
    parts = list(parts)
    if sum(map(len, parts)) < _LEAST:
        return work_out()
    path = cache_dir() / DIRECTORY / f"{kind}-{_key(parts)}"
    found = _load(path)
    if found is None:
        found = work_out()
        _store(path, found)
    return found


def _key(parts: Iterable[bytes]) -> str:
    state = hashlib.blake2b(_VERSION, digest_size=_HASH)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def _load(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > _MOST_SIZE:
            return None
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    sound = data[:_HASH] == hashlib.blake2b(data[_HASH:], digest_size=_HASH).digest()
    return data[_HASH:] if sound else None


def _store(path: Path, data: bytes) -> None:
    """Write beside and rename, so that others see all of it or nothing; then drop what is over the limit."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(hashlib.blake2b(data, digest_size=_HASH).digest() + data)
        beside.replace(path)
        files = sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in files[_MOST_FILES:]:
            old.unlink(missing_ok=True)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
