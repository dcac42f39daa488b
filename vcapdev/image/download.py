# SPDX-License-Identifier: GPL-2.0-or-later
"""Package files: fetched by apt's own transports with a progress bar, resumed, verified, kept by content.

A file under way is ``partial/<name>`` in the cache and continues there after an interruption (apt's
transports ask for the rest with Range and If-Range); a complete, verified one is renamed to ``debs/<name>``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image.apt import Address
from vcapdev.image.apttool import die_with_parent, end_group, explain, run_tool
from vcapdev.image.cache import Cache, disk_errors, disk_full
from vcapdev.image.lock import Package
from vcapdev.progress import Progress

_HELPER = "/usr/lib/apt/apt-helper"
_POLL = 0.1  # seconds between two looks at the files under way
_SLACK = 64 << 20  # bytes to leave free on the disk


class VanishedError(SetupError):
    """The mirror lists these packages but has no file for them."""

    def __init__(self, packages: Sequence[Package], line: str) -> None:
        names = ", ".join(f"{package.name} {package.version}" for package in packages)
        super().__init__(
            f"the mirror lists but does not have {names} ({line}): try --refresh, or set VCAPDEV_MIRROR to "
            "another mirror"
        )
        self.packages = list(packages)


def stored(cache: Cache, package: Package) -> Path | None:
    """The verified file of a package in the cache, or None."""
    path = cache.root / "debs" / package.file_name
    return path if path.is_file() else None


def download(
    cache: Cache, addresses: Sequence[Address], environment: Mapping[str, str], progress: Progress
) -> list[Path]:
    """Have the files of all ``addresses`` in the cache; only missing ones are fetched.

    ``environment`` selects the apt root (its proxies count). Two processes that want files at the same time
    take turns.

    :raise VanishedError: when the mirror has no such file; the others are fetched all the same.
    :raise SetupError: no network, full disk, wrong checksum.
    """
    if any(stored(cache, address.package) is None for address in addresses):
        waiting = "Waiting for another vcapdev that downloads"
        with cache.locked("download", lambda: progress.start(waiting)) as lock:
            missing = [address for address in addresses if stored(cache, address.package) is None]
            if missing:
                _Fetch(cache, missing, environment, lock).run(progress)
    return [cache.root / "debs" / address.package.file_name for address in addresses]


class _Fetch:
    """One run of apt's download helper."""

    def __init__(
        self, cache: Cache, addresses: Sequence[Address], environment: Mapping[str, str], lock: int
    ) -> None:
        self._cache, self._addresses, self._environment, self._lock = cache, addresses, environment, lock
        with disk_errors(cache.root):
            for name in ("partial", "debs"):
                (cache.root / name).mkdir(parents=True, exist_ok=True)
        self._total = sum(address.package.size for address in addresses)

    def run(self, progress: Progress) -> None:
        self._check_room()
        count = len(self._addresses)
        progress.start(f"Downloading {count} package{'s' if count > 1 else ''}", self._total)
        status, errors = self._fetch(progress)
        vanished = [address for address in self._addresses if not self._keep(address)]
        if not vanished:
            progress.finish(f"{self._total / 1e6:.1f} MB")
            return
        progress.finish("failed")
        raise self._failure(vanished, errors, status)

    def _partial(self, address: Address) -> Path:
        return self._cache.root / "partial" / address.package.file_name

    def _check_room(self) -> None:
        have = sum(_length(self._partial(address)) for address in self._addresses)
        if shutil.disk_usage(self._cache.root).free < self._total - have + _SLACK:
            raise disk_full(self._cache.root)

    def _fetch(self, progress: Progress) -> tuple[int, str]:
        argv = [_HELPER, "-q=1", "download-file"]
        for address in self._addresses:
            argv += [address.uri, str(self._partial(address)), f"SHA256:{address.package.sha256}"]
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            with _helper(argv, self._environment, errors.fileno(), self._lock) as process:
                while process.poll() is None:
                    progress.advance(sum(self._so_far(address) for address in self._addresses))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL)
            errors.seek(0)
            return process.returncode, errors.read()

    def _so_far(self, address: Address) -> int:
        return min(_length(self._partial(address)), address.package.size)

    def _keep(self, address: Address) -> bool:
        """Move a complete file into place; whether it is there now."""
        partial = self._partial(address)
        final = self._cache.root / "debs" / partial.name
        with disk_errors(self._cache.root):
            if partial.is_symlink():  # apt's file: transport links instead of copying
                _copy_link(partial)
            if _length(partial) != address.package.size or _sha256(partial) != address.package.sha256:
                return False
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(final)
        return True

    def _failure(self, failed: Sequence[Address], errors: str, status: int) -> SetupError:
        for address in failed:
            self._partial(address).with_name(self._partial(address).name + ".FAILED").unlink(missing_ok=True)
        gone, line = [], ""
        for address in failed:
            match = re.search(
                rf"Failed to fetch {re.escape(address.uri)}\s+(.*(?:404|410|not found).*)", errors
            )
            if match:
                gone.append(address.package)
                line = " ".join(match[1].split())
        if gone and len(gone) == len(failed):
            return VanishedError(gone, line)
        text = errors or f"E: apt-helper ended with status {status}"
        return explain(text, self._cache.root, f"package {failed[0].package.name}")


@contextlib.contextmanager
def _helper(
    argv: Sequence[str], environment: Mapping[str, str], errors: int, lock: int
) -> Iterator[subprocess.Popen[bytes]]:
    """apt-helper in a session of its own; ended with us, so that it writes what resuming needs."""
    try:
        process = subprocess.Popen(
            die_with_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,
            restore_signals=False,
            pass_fds=(lock,),  # should it outlive us, it still holds the lock on the files
        )
    except FileNotFoundError as error:
        raise SetupError(f"this machine has no {argv[0]}: vcapdev needs Debian's apt package") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            end_group(process)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy_link(path: Path) -> None:
    target = Path(os.readlink(path))
    path.unlink()
    temporary = path.with_name(path.name + ".copy")
    try:
        shutil.copyfile(target, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(
    debs: Sequence[Path],
    into: Path,
    progress: Progress,
    label: str = "Unpacking",
    disk: Path | None = None,
) -> None:
    """Unpack the trees of ``debs`` into directory ``into``; nothing of them is run.

    ``disk`` is the place that an error about a full disk names (``into`` if not given).

    :raise SetupError: full disk, or a damaged file.
    """
    progress.start(label, len(debs), "packages")
    environment = {**os.environ, "LC_ALL": "C"}
    started = time.monotonic()
    for done, deb in enumerate(debs):
        progress.advance(done)
        result = run_tool(["dpkg-deb", "--extract", str(deb), str(into)], environment, into)
        if result.returncode != 0:
            progress.finish("failed")
            raise explain(result.stderr, disk or into, f"the content of {deb.name}")
    progress.finish(f"{len(debs)} packages in {time.monotonic() - started:.1f} s")
