# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel headers and the few driver sources that altered modules are built from, at the image's version.

Debian has no smaller package of a driver's source than the whole kernel (linux-source-*, 140 MB, a .tar.xz in
a .deb). It is read as a stream up to the end of drivers/media, about 1 MB of it is kept, and the package is
dropped. Headers keep what x86 needs. Both are cached, so that a later build needs no network.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.apttool import die_with_parent
from vcapdev.image.cache import Cache, digest, disk_errors, remove_tree
from vcapdev.image.download import unpack
from vcapdev.image.initramfs import Guest
from vcapdev.image.lock import Package
from vcapdev.image.modules import ModuleTree, kernel_banner
from vcapdev.image.provision import fetch
from vcapdev.image.recipe import Recipe
from vcapdev.progress import Progress

#: What is kept of the kernel's source, as prefixes of paths: bttv, and the buffers of old and new kernels.
WANTED = (
    "drivers/media/pci/bt8xx/",
    "drivers/media/v4l2-core/videobuf",
    "drivers/media/common/videobuf2/",
)
#: The stream is read no further than the end of this directory, which holds all that is wanted.
_LAST = "drivers/media/"
_MOST_KEPT = 16 << 20
_IMAGE = re.compile(r"linux-(image|binary|modules)-\d")
_PACKAGE_ID = re.compile(r'LINUX_PACKAGE_ID\s+" \S+ (\S+)"')


class PackagedGuest(Guest, Protocol):
    """A guest whose kernel comes from packages."""

    @property
    def packages(self) -> list[Package]: ...


@dataclass(frozen=True)
class KernelVersion:
    """Which kernel modules are built for: Debian's version of it, and the release that it calls itself."""

    version: str
    release: str
    sha256: str

    @property
    def series(self) -> str:
        """ "6.1" of 6.1.192-2, as it stands in the names of source packages."""
        return ".".join(self.version.split("-")[0].split(".")[:2])


def kernel_version(guest: PackagedGuest) -> KernelVersion:
    """The version of the guest's kernel package, checked against the kernel image itself.

    :raise UsageError: when the kernel is the user's own and not the packaged one.
    """
    if ModuleTree(guest.modules).is_built_tree:
        raise UsageError(
            "altered drivers are built for packaged kernels only: build the module in your tree and give it "
            "with --module FILE.ko"
        )
    package = next((p for p in guest.packages if _IMAGE.match(p.name) and guest.release in p.name), None)
    if package is None:
        raise UsageError(
            f"no package of this recipe is the kernel {guest.release}, so its source is not known"
        )
    banner = kernel_banner(guest.kernel)
    if banner.split(" ")[0] != guest.release or package.version not in banner:
        raise UsageError(
            f"the kernel {guest.kernel} ({banner.split(' ')[0]}) is not that of package {package.name} "
            f"{package.version}; altered drivers are built for the packaged kernel only"
        )
    return KernelVersion(package.version, guest.release, package.sha256)


def check_one_version(parts: Mapping[str, str]) -> None:
    """Refuse to build from parts (name -> version) of different versions.

    :raise SetupError: naming every part and its version.
    """
    if len(set(parts.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in parts.items())
        raise SetupError(
            f"image, headers and sources are not of one version ({listed}): modules built so would not fit; "
            "run again with --refresh, or with a mirror that has them all"
        )


def header_tree(recipe: Recipe, kernel: KernelVersion, progress: Progress, cache: Cache) -> Path:
    """An unpacked tree with the kernel's header packages (usr/src) and build tools (usr/lib), for x86.

    :raise SetupError: the mirror lacks one of them in the kernel's version.
    """

    def build(into: Path) -> None:
        name = f"linux-headers-{kernel.release}"
        first = fetch(recipe, [name], [kernel.version], progress=progress, cache=cache)
        rest = header_dependencies(deb_field(first[0], "Depends"))
        debs = first + fetch(recipe, rest, [kernel.version] * len(rest), progress=progress, cache=cache)
        check_one_version({"image": kernel.version, **deb_versions(debs)})
        unpack(debs, into, progress, f"Unpacking headers of {kernel.release}")
        check_header_content(into, kernel)
        _prune_headers(into)
        repoint_makefiles(into)

    return cache.entry(
        "headers", headers_key(kernel), build, label=f"headers of {kernel.release} {kernel.version}"
    )


def headers_key(kernel: KernelVersion) -> str:
    """Under which the cache keeps them."""
    return digest("headers-1", kernel.sha256, kernel.version, kernel.release)


def header_dependencies(depends: str) -> list[str]:
    """Of a header package's dependencies, those of the same kernel: common headers and build tools."""
    names = [re.split(r"[ (|:]", item.strip())[0] for item in depends.split(",")]
    return [name for name in names if re.match(r"linux-(headers-.*-common|kbuild-)", name)]


def check_header_content(root: Path, kernel: KernelVersion) -> None:
    """Check the headers by what they say inside. :raise SetupError: naming both versions."""
    files = list(root.glob(f"usr/src/linux-headers-{kernel.release}/include/generated/package.h"))
    for file in files:  # absent before 5.17: the package's own version was checked
        match = _PACKAGE_ID.search(file.read_text())
        if match:
            check_one_version({"image": kernel.version, "content of the headers": match[1]})


def _prune_headers(root: Path) -> None:
    """Drop documentation and the architectures that no guest of ours has."""
    remove_tree(root / "usr/share")
    for arch in root.glob("usr/src/linux-headers-*/arch/*"):
        if arch.is_dir() and arch.name != "x86":
            remove_tree(arch)


def repoint_makefiles(root: Path) -> None:
    """Make the header packages' Makefiles include each other relative to themselves.

    As packaged they say "include /usr/src/linux-headers-...-common/Makefile". make reads them with its
    directory changed to the one that holds the Makefile, so a relative path holds wherever the tree lies.
    """
    for makefile in root.glob("usr/src/linux-headers-*/Makefile"):
        text = makefile.read_text(encoding="utf-8", errors="surrogateescape")
        changed = re.sub(r"(?<![\w.])/usr/src/(?=linux-headers-)", "../", text)
        changed = re.sub(r"(?<![\w.])/usr/lib/(?=linux-kbuild-)", "../../lib/", changed)
        if changed != text:
            makefile.write_text(changed, encoding="utf-8", errors="surrogateescape")


def driver_sources(recipe: Recipe, kernel: KernelVersion, progress: Progress, cache: Cache) -> Path:
    """A kernel source tree that holds only :data:`WANTED`, of the kernel's version.

    :raise SetupError: the mirror lacks the source package in that version.
    """

    def build(into: Path) -> None:
        name = f"linux-source-{kernel.series}"
        deb = fetch(recipe, [name], [kernel.version], progress=progress, cache=cache)[0]
        check_one_version({"image": kernel.version, **deb_versions([deb])})
        extract_sources(deb, into, progress)
        with disk_errors(cache.root):
            deb.unlink(missing_ok=True)  # 140 MB, of which the needed part was just taken

    key = digest("sources-1", kernel.version, *WANTED)
    return cache.entry("sources", key, build, label=f"driver sources of Linux {kernel.version}")


def extract_sources(deb: Path, into: Path, progress: Progress, wanted: Sequence[str] = WANTED) -> int:
    """Take the wanted files out of a linux-source package, as a stream; the number of files.

    :raise SetupError: when the package is damaged or is no kernel source.
    """
    argv = die_with_parent(["dpkg-deb", "--fsys-tarfile", str(deb)])
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as unpacker:
        assert unpacker.stdout is not None
        try:
            count = _extract_inner(unpacker.stdout, into, progress, wanted)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, EOFError):
                raise  # the disk, not the package
            raise SetupError(f"{deb.name} is damaged: {error}; remove it and run again") from None
        finally:
            unpacker.kill()  # the rest of the kernel is not needed
    if not count:
        raise SetupError(f"{deb.name} holds none of the driver sources that are needed")
    progress.finish(f"{count} files")
    return count


def _extract_inner(outer: IO[bytes], into: Path, progress: Progress, wanted: Sequence[str]) -> int:
    with tarfile.open(fileobj=outer, mode="r|") as package:
        for member in package:
            if re.search(r"/linux-source-[^/]*\.tar\.(xz|zst|gz|bz2)$", member.name):
                stream = package.extractfile(member)
                assert stream is not None
                progress.start("Reading the kernel source", member.size)
                # "r|*" finds the compression out by itself.
                with tarfile.open(fileobj=cast(IO[bytes], _Counted(stream, progress)), mode="r|*") as source:
                    return _keep(source, into, wanted)
    return 0


def _keep(source: Iterable[tarfile.TarInfo], into: Path, wanted: Sequence[str]) -> int:
    count, total, reached = 0, 0, False
    assert isinstance(source, tarfile.TarFile)
    for member in source:
        path = member.name.removeprefix("./").partition("/")[2]
        if path.startswith(_LAST):
            reached = True
        elif reached:
            break
        if not member.isfile() or not path.startswith(tuple(wanted)) or ".." in path.split("/"):
            continue
        total += member.size
        stream = source.extractfile(member)
        if stream is None or total > _MOST_KEPT:
            raise tarfile.TarError("it holds more driver source than there can be")
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(stream.read())
        count += 1
    else:
        # A stream that is cut short looks like one that ends; a kernel has more than drivers/media.
        raise tarfile.TarError("it ends too early")
    return count


class _Counted:
    """A stream that tells a progress bar how far it was read."""

    def __init__(self, stream: IO[bytes], progress: Progress) -> None:
        self._stream, self._progress, self._done = stream, progress, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._done += len(data)
        self._progress.advance(self._done)
        return data


def deb_field(deb: Path, field: str) -> str:
    """One control field of a package file. :raise SetupError: when it is damaged."""
    result = subprocess.run(
        ["dpkg-deb", "--field", str(deb), field], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if result.returncode:
        raise SetupError(f"{deb.name} is damaged: {result.stderr.strip()}; remove it and run again")
    return result.stdout.strip()


def deb_versions(debs: Iterable[Path]) -> dict[str, str]:
    """Name -> version of package files, as they say themselves."""
    return {deb_field(deb, "Package"): deb_field(deb, "Version") for deb in debs}
