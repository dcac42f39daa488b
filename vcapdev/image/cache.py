# SPDX-License-Identifier: GPL-2.0-or-later
"""The per-user cache: content-addressed entries, built once, shared by checkouts and by concurrent processes.

::

    <cache>/<kind>/<key>/entry.json     what it is, size; its mtime is the time of last use
    <cache>/<kind>/<key>/content/       what build() made, complete or absent
    <cache>/<kind>/<key>.tmp-*          a build under way, or what a killed one left
    <cache>/debs/                       downloaded packages, verified
    <cache>/apt/<key>/                  package indexes of a private apt root
    <cache>/partial/                    files that are being downloaded
    <cache>/resolutions/                which package versions a recipe stands for
    <cache>/probes/                     what QEMU and KVM answered when they were tried
    <cache>/kernels/                    tables of guests' kernels, unpacked (vcapdev.guestmm.learnt)
    <cache>/bundles/<key>/              entries: lock files of bundles (vcapdev.image.offline)
    <cache>/snapshots/<key>/            entries: guests that have booted (vcapdev.vm.snapshot)
    <cache>/locks/                      one flock(2) file for each of the above

A process keeps a shared lock on every entry that it was given until it ends, so that a prune elsewhere never
takes away what is in use (of each kind on the latest 200: a process may not have as many open files as there
are altered drivers); a build holds the exclusive lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vcapdev.image.disk import (
    disk_errors,
    disk_full,
    remove_tree,
    sync,
    sync_tree,
    tree_size,
    write_atomic,
)
from vcapdev.paths import cache_dir

__all__ = [
    "Cache",
    "CacheItem",
    "Pruned",
    "digest",
    "disk_errors",
    "disk_full",
    "remove_tree",
    "tree_size",
    "write_atomic",
]

_RESERVED = ("debs", "apt", "resolutions", "locks", "partial", "probes", "kernels")
_NOT_NEEDED = ("debs", "partial")
_UNUSED_AGE = 30 * 86400.0
_MOST_HELD = 200  # locks of one kind; a process may have 1024 open files


def digest(*parts: str | bytes) -> str:
    """A cache key of 64 hexadecimal digits: SHA-256 over the parts, each preceded by its length."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()


@dataclass(frozen=True)
class CacheItem:
    """One thing in the cache: ``size`` in bytes on disk, ``last_used`` in seconds since the epoch."""

    kind: str
    label: str
    size: int
    last_used: float
    paths: tuple[Path, ...]
    lock: str


@dataclass(frozen=True)
class Pruned:
    """What a prune removed, and what it left because a running vcapdev uses it."""

    removed: list[CacheItem]
    in_use: list[CacheItem]

    @property
    def freed(self) -> int:
        """Bytes that were freed on the disk."""
        return sum(item.size for item in self.removed)


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _suites(root: Path) -> list[str]:
    try:
        text = (root / "sources" / "debian.sources").read_text(encoding="utf-8")
    except OSError:
        return ["an unfinished update"]
    return re.findall(r"^Suites: (\S+)", text, re.M)


class Cache:
    """The cache at ``root`` (default :func:`vcapdev.paths.cache_dir`); nothing is created before need.

    :cvar used: kind and key of each entry that this process was given, in that order.
    """

    used: ClassVar[dict[tuple[str, str], None]] = {}
    _all_held: ClassVar[dict[Path, dict[tuple[str, str], int]]] = {}  # by root: one lock of a kind is enough

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_dir()
        self._held = self._all_held.setdefault(self.root, {})

    def path(self, *parts: str) -> Path:
        """A path below the cache; its parent directory exists afterwards."""
        path = self.root.joinpath(*parts)
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def open_lock(self, name: str) -> int:
        """A descriptor of lock file ``name``, not yet locked; the caller closes it."""
        path = self.path("locks", f"{name}.lock")
        with disk_errors(self.root):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextlib.contextmanager
    def locked(self, name: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Hold lock ``name`` alone, and yield its descriptor; ``on_wait`` is called when it is taken."""
        descriptor = self.open_lock(name)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[None]:
        """Hold lock ``name`` together with others, so that nobody holds it alone."""
        descriptor = self.open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def entry(self, kind: str, key: str, build: Callable[[Path], None], *, label: str = "") -> Path:
        """The content directory of entry ``kind``/``key``, built on first use.

        ``build`` gets an empty directory beside the final place and fills it; a failed or killed build leaves
        no entry. ``label`` says what it is in ``vcapdev cache list``.

        :raise SetupError: when the disk is full or the cache is not writable.
        """
        if kind in _RESERVED or "/" in kind + key:
            raise ValueError(f"not a cache entry: {kind}/{key}")
        place = self.root / kind / key
        Cache.used[kind, key] = None
        if (kind, key) in self._held and place.is_dir():
            self._touch(place)
            return place / "content"
        descriptor = self.open_lock(f"{kind}-{key}")
        try:
            self._build_once(place, descriptor, build, label)
        except BaseException:
            os.close(descriptor)
            raise
        stale = self._held.pop((kind, key), None)
        if stale is not None:
            os.close(stale)
        self._held[kind, key] = descriptor
        self._let_go(kind)
        self._touch(place)
        return place / "content"

    def _let_go(self, kind: str) -> None:
        """Give up the oldest locks of a kind when there are too many."""
        alike = [held for held in list(self._held) if held[0] == kind]
        for held in alike[:-_MOST_HELD]:
            descriptor = self._held.pop(held, None)
            if descriptor is not None:
                os.close(descriptor)

    def lookup(self, kind: str, key: str) -> Path | None:
        """The content directory of an entry that exists already, else None. Counts as a use."""
        if not (self.root / kind / key).is_dir():
            return None
        try:
            return self.entry(kind, key, _must_exist)
        except FileNotFoundError:
            return None

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry that turned out to be damaged; the next :meth:`entry` makes it again.

        It is moved out of the way first: whoever uses it at this moment keeps the files that are open.
        """
        descriptor = self._held.pop((kind, key), None)
        if descriptor is not None:
            os.close(descriptor)
        place = self.root / kind / key
        with disk_errors(self.root):
            grave = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}.tmp-"))
            with contextlib.suppress(FileNotFoundError):
                place.rename(grave / "dropped")
            remove_tree(grave)

    def keep(self, kind: str, most: int) -> None:
        """Remove the entries of a kind that were not used for longest, but for ``most`` and those in use."""
        alike = sorted(
            (item for item in self._entries() if item.kind == kind), key=lambda one: -one.last_used
        )
        for item in alike[most:]:
            self._remove(item, Pruned([], []))

    def list(self) -> list[CacheItem]:
        """Everything in the cache, the largest first."""
        items = [*self._entries(), *self._indexes(), *self._files()]
        return sorted(items, key=lambda item: -item.size)

    def size(self) -> int:
        """Bytes that the cache takes on the disk."""
        return tree_size(self.root)

    def prune(
        self, *, older_than: float | None = None, unused: bool = False, everything: bool = False
    ) -> Pruned:
        """Remove entries, except those that a running vcapdev uses; what is missed later is made again.

        :param older_than: those not used for so many seconds.
        :param unused: what no run needs: package files (they are unpacked), what interrupted runs left, and
            what was not used for 30 days.
        :param everything: all of it.
        """
        now = time.time()
        age = _UNUSED_AGE if unused and older_than is None else older_than
        pruned = Pruned([], [])
        for item in self.list():
            old = age is not None and now - item.last_used >= age
            if everything or old or (unused and item.kind in _NOT_NEEDED):
                self._remove(item, pruned)
        return pruned

    def _entries(self) -> Iterator[CacheItem]:
        for about in self.root.glob("*/*/entry.json"):
            place = about.parent
            try:
                data = json.loads(about.read_text(encoding="utf-8"))
                used = about.stat().st_mtime
                label, size = str(data["label"]), int(data["size"])
            except (OSError, ValueError, KeyError, TypeError):
                label, size, used = "damaged", tree_size(place), 0.0
            lock = f"{place.parent.name}-{place.name}"
            yield CacheItem(place.parent.name, label, size, used, (place,), lock)
        for left in self.root.glob("*/*.tmp-*"):
            key = left.name.partition(".tmp-")[0]
            lock = f"{left.parent.name}-{key}"
            yield CacheItem("partial", "unfinished build", tree_size(left), _used(left), (left,), lock)

    def _indexes(self) -> Iterator[CacheItem]:
        for root in self.root.glob("apt/*/"):
            label = "package indexes of " + ", ".join(_suites(root))
            yield CacheItem(
                "apt", label, tree_size(root), _used(root / "updated"), (root,), f"apt-{root.name}"
            )

    def _files(self) -> Iterator[CacheItem]:
        for kind, label, lock in (
            ("debs", "package files", "debs"),
            ("partial", "interrupted downloads", "download"),
            ("resolutions", "resolved recipes", "resolutions"),
            ("probes", "what QEMU and KVM answered", "probes"),
            ("kernels", "tables of kernels", "kernels"),
        ):
            files = tuple(sorted((self.root / kind).glob("*")))
            if files:
                size, used = sum(map(tree_size, files)), max(map(_used, files))
                yield CacheItem(kind, f"{len(files)} {label}", size, used, files, lock)

    def _remove(self, item: CacheItem, pruned: Pruned) -> None:
        descriptor = self.open_lock(item.lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in item.paths:
                remove_tree(path)
            pruned.removed.append(item)
        except BlockingIOError:
            pruned.in_use.append(item)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give up the shared locks, as the end of the process does."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _build_once(self, place: Path, lock: int, build: Callable[[Path], None], label: str) -> None:
        """Leave with the shared lock held and the entry complete.

        Builders exclude each other by a second lock. To have the first alone cannot be waited for: whoever
        uses an entry holds it for the rest of his life.
        """
        fcntl.flock(lock, fcntl.LOCK_SH)
        if place.is_dir():
            return
        building = self.open_lock(f"{place.parent.name}-{place.name}.build")
        try:
            fcntl.flock(building, fcntl.LOCK_EX)
            if not place.is_dir():  # else another one has built it in the meantime
                with disk_errors(self.root):
                    _build_beside(place, build, label)
        finally:
            os.close(building)

    @staticmethod
    def _touch(place: Path) -> None:
        with contextlib.suppress(OSError):  # a read-only cache can be used, its age is then not kept
            os.utime(place / "entry.json")


def _must_exist(_: Path) -> None:
    raise FileNotFoundError


def _build_beside(place: Path, build: Callable[[Path], None], label: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    for stale in place.parent.glob(f"{place.name}.tmp-*"):  # we hold the lock: nobody builds here
        remove_tree(stale)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}.tmp-"))
    try:
        content = temporary / "content"
        content.mkdir()
        build(content)
        about = {"label": label or place.parent.name, "size": tree_size(content), "created": time.time()}
        (temporary / "entry.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        sync_tree(temporary)
        temporary.rename(place)
        sync(place.parent, os.fsync)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(temporary)
        raise
