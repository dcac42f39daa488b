# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that carries entries of the cache to another machine: a ZIP archive of compressed tar archives.

::

    vcapdev-bundle.json           the manifest: what there is, of which versions, with checksums
    KIND/KEY.tar.zst              an entry's content, stored as it is

An entry is unpacked where the cache builds entries, and counts only when its checksum was right to the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import disk_errors, tree_size

MANIFEST = "vcapdev-bundle.json"
FORMAT = 1
_BLOCK = 4096
_COPY = 1 << 20
_MAX_MANIFEST = 16 << 20
_ZEROS = bytes(_BLOCK)
_FLAT_TIME = 1_000_000_000  # of files in the archive: when they were unpacked here is nobody's business

Json = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One entry of the cache. Sizes in bytes: of the member, of the files, and what they take on a disk."""

    kind: str
    key: str
    label: str
    sha256: str
    packed: int
    unpacked: int
    room: int

    @property
    def member(self) -> str:
        return f"{self.kind}/{self.key}.tar.zst"


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    :ivar kernels: release by name of the recipe.
    :ivar lock: the lock file that pins a run to the packages that are carried.
    :ivar programs: by name of a guest program: a digest of its sources, and the key of its entry.
    """

    version: str
    made: str
    kernels: dict[str, str]
    lock: Json
    programs: dict[str, list[str]]
    items: list[Item] = field(default_factory=list)

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


class Writer:
    """Writes a bundle; it appears under its name when it is complete.

    :raise SetupError: the disk is full, or the place is not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.items = path, list[Item]()
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        with write_errors(path):
            self._archive = zipfile.ZipFile(self._draft, "x", zipfile.ZIP_STORED)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with write_errors(self.path):
            try:
                self._archive.close()
                if kind is None:
                    os.replace(self._draft, self.path)
            finally:
                self._draft.unlink(missing_ok=True)

    def add(self, kind: str, key: str, label: str, content: Path, advance: Callable[[int], None]) -> None:
        """Add an entry; ``advance`` is told how many bytes of its files are done."""
        item = Item(kind, key, label, "", 0, 0, 0)
        with write_errors(self.path), self._archive.open(item.member, "w", force_zip64=True) as member:
            tee = _Hashed(member)
            with zstandard.ZstdCompressor(level=6, threads=-1).stream_writer(
                cast(IO[bytes], tee), closefd=False
            ) as packed:
                unpacked = _pack(content, packed, advance)
        room = tree_size(content)
        self.items.append(Item(kind, key, label, tee.hash.hexdigest(), tee.count, unpacked, room))

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, the last thing."""
        with write_errors(self.path):
            self._archive.writestr(MANIFEST, manifest.text())


class BundleFile:
    """A bundle to read.

    :raise UsageError: it is none, or none that this version can read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
            about = self._archive.getinfo(MANIFEST)
            if about.file_size > _MAX_MANIFEST:
                raise ValueError("its manifest is too long")
            self.manifest = _parsed(json.loads(self._archive.read(about)))
        except OSError as error:
            raise UsageError(f"the bundle {path} cannot be read: {error.strerror}") from None
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError) as error:
            text = " ".join(str(error).split())
            raise UsageError(
                f"{path} is no bundle of vcapdev, or not all of it ({text}); make it again, or copy it again"
            ) from None

    def unpack(self, item: Item, into: Path, advance: Callable[[int], None]) -> None:
        """Unpack an entry into an empty directory.

        :raise SetupError: it is damaged. Whatever is there then is of no use.
        """
        try:
            with self._archive.open(item.member) as member:
                tee = _Hashed(member)
                with zstandard.ZstdDecompressor().stream_reader(cast(IO[bytes], tee), closefd=False) as plain:
                    _unpack(plain, into, item.unpacked, advance)
                    while plain.read(_COPY):
                        pass
                while tee.read(_COPY):
                    pass
        except (zipfile.BadZipFile, zstandard.ZstdError, tarfile.TarError, KeyError, EOFError) as error:
            raise self._damaged(item, " ".join(str(error).split())) from None
        if tee.hash.hexdigest() != item.sha256:
            raise self._damaged(item, "its checksum is wrong")

    def _damaged(self, item: Item, why: str) -> SetupError:
        return SetupError(f"the bundle {self.path} is damaged: {item.label} ({why}); copy it again")


class _Hashed(io.RawIOBase):
    """A file that is read or written through a checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash, self.count = file, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        self.count += len(data)
        return data

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.count += len(data)
        return self._file.write(data)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Where a bundle is written: a full or unwritable disk in one line."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"the bundle {path} cannot be written: {error.strerror}; name a place with room"
        ) from None


def _parsed(data: Any) -> Manifest:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}, and this version reads {FORMAT}")
    items = [Item(**{name: kind(each[name]) for name, kind in _COLUMNS.items()}) for each in data["items"]]
    for item in items:
        if not (item.kind + item.key).replace("-", "").isalnum():
            raise ValueError(f"an entry called {item.kind}/{item.key}")
    programs = {str(name): [str(each) for each in pair] for name, pair in dict(data["programs"]).items()}
    kernels = {str(name): str(release) for name, release in dict(data["kernels"]).items()}
    return Manifest(str(data["version"]), str(data["made"]), kernels, dict(data["lock"]), programs, items)


_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "kind": str, "key": str, "label": str, "sha256": str, "packed": int, "unpacked": int,
    "room": int,
}  # fmt: skip


def _pack(content: Path, into: Any, advance: Callable[[int], None]) -> int:
    """Write a tree as a tar archive; returns the bytes of its files."""
    done = 0

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        nonlocal done
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = _FLAT_TIME
        done += info.size if info.isreg() else 0
        advance(done)
        return info

    with tarfile.open(fileobj=into, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(os.listdir(content)):
            archive.add(content / name, name, filter=plain)
    return done


def _unpack(plain: Any, into: Path, total: int, advance: Callable[[int], None]) -> None:
    """Unpack a tar archive, which may be anybody's: nothing but files, directories and links, all inside."""
    done = 0
    closing: list[tuple[Path, int]] = []  # directories get their modes when they are full
    with tarfile.open(fileobj=plain, mode="r|") as archive:
        for info in archive:
            place = _inside(into, info.name)
            if info.isdir():
                place.mkdir(exist_ok=True)
                closing.append((place, info.mode))
            elif info.issym():
                os.symlink(info.linkname, place)
            elif info.islnk():
                os.link(_inside(into, info.linkname), place, follow_symlinks=False)
            elif info.isreg():
                done += info.size
                if done > total:
                    raise tarfile.TarError("it is longer than its manifest says")
                source = archive.extractfile(info)
                assert source is not None
                _copy(source, place, info)
                advance(done)
            else:
                raise tarfile.TarError(f"{info.name} is no file")
    for directory, mode in reversed(closing):
        directory.chmod(stat.S_IMODE(mode) & 0o755 | 0o500)


def _inside(top: Path, name: str) -> Path:
    """A path below ``top`` to which no link leads."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise tarfile.TarError(f"{name} lies outside")
    parent = top.joinpath(*parts[:-1])
    if parent.resolve() != top.resolve().joinpath(*parts[:-1]):
        raise tarfile.TarError(f"{name} lies behind a link")
    return top.joinpath(*parts)


def _copy(source: IO[bytes], place: Path, info: tarfile.TarInfo) -> None:
    """Write a file with holes where there is nothing: a saved guest's RAM and swap are mostly that."""
    with place.open("xb") as file:
        while block := source.read(_COPY):
            for at in range(0, len(block), _BLOCK):
                piece = block[at : at + _BLOCK]
                if piece == _ZEROS[: len(piece)]:
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    file.write(piece)
        file.truncate(info.size)
    place.chmod(stat.S_IMODE(info.mode) & 0o755 | 0o400)


def check_room(cache: Path, items: Iterable[Item], path: Path) -> None:
    """Refuse to begin where the disk has no room for all of it.

    :raise SetupError: naming how much is missing.
    """
    wanted = sum(item.room for item in items)
    cache.mkdir(parents=True, exist_ok=True)
    with disk_errors(cache):
        free = shutil.disk_usage(cache).free
    if wanted > free:
        raise SetupError(
            f"unpacking {path} may take {wanted / 1e6:.0f} MB, and the cache at {cache} has {free / 1e6:.0f} "
            "MB of room: free some, or set VCAPDEV_CACHE to a directory on another disk"
        )
