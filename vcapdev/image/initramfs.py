# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's initramfs: busybox, kernel modules in load order, v4l-utils and lspci, and our own programs.

It is one stream, because the kernel ignores what follows a compressed one in another format. Everything
comes from an unpacked tree of packages (the "root"); nothing of it is installed or run, but busybox is
asked for the list of its applets.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.elf import Elf, ElfError, resolve_in_root
from vcapdev.image.modules import Module, ModuleTree, kernel_banner, load_order
from vcapdev.image.newc import Tree
from vcapdev.progress import Progress
from vcapdev.resources import resource_dir

#: Programs taken from the root with their libraries: package, path in the image.
USERLAND = (
    ("v4l-utils", "usr/bin/v4l2-ctl"),
    ("v4l-utils", "usr/bin/v4l2-compliance"),
    ("pciutils", "usr/bin/lspci"),
    ("pciutils", "usr/bin/setpci"),
)
#: The modules that a guest with a card needs; what is built into its kernel is not missed.
WANTED_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "zram", "bttv")
_SWAPS = {"zram": "zram"}  # which of them a way of swapping needs, and nothing else does

_LIBRARY_DIRS = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
)
_DIRECTORIES = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var")
#: Stored blocks: a gzip stream that every kernel reads, at the cost of a plain copy. Of an image of 18.5 MB
#: the guest executes, to unpack it (6.1, TCG, counted with -icount): plain 0.085, gzip -0 0.091, lz4 0.14,
#: zstd -1 0.31, zstd -19 0.36, gzip -6 0.40, gzip -1 0.44 thousand million instructions. The latter is 0.4
#: to 0.8 s of every boot, for 10 MB less on the host's disk.
_GZIP_LEVEL = 0


def wanted_modules(tree: ModuleTree, swap: str) -> tuple[str, ...]:
    """The modules that a guest needs which swaps in this way; a person's own kernel may have been built lean.

    :param swap: "zram", "disk" or "none".
    """
    spare = {module for way, module in _SWAPS.items() if way != swap and tree.lacks(module)}
    return tuple(name for name in WANTED_MODULES if name not in spare)


class Guest(Protocol):
    """What an image is made of; :class:`vcapdev.image.provision.Provisioned` is one."""

    @property
    def release(self) -> str: ...
    @property
    def kernel(self) -> Path: ...
    @property
    def modules(self) -> Path: ...
    @property
    def root(self) -> Path: ...


def build_initramfs(
    guest: Guest,
    *,
    programs: Mapping[str, Path],
    modules: Sequence[str],
    overrides: Mapping[str, Path],
    progress: Progress,
    cache: Cache | None = None,
) -> Path:
    """The initramfs file for this guest, from the cache when one with the same content is there.

    ``programs`` are our own (name -> static executable), ``modules`` the names wanted, ``overrides`` the
    files (name -> .ko) that replace stock modules.

    :raise UsageError: when an override or the kernel does not fit the modules.
    :raise SetupError: when a module or a package's file is missing.
    """
    tree = initramfs_tree(guest, programs=programs, modules=modules, overrides=overrides)
    buffer = io.BytesIO()
    tree.write(buffer)
    archive = buffer.getvalue()
    key = hashlib.sha256(b"gzip-%d\0" % _GZIP_LEVEL + archive).hexdigest()

    def build(directory: Path) -> None:
        progress.start("initramfs", len(archive))
        (directory / "initramfs").write_bytes(gzip.compress(archive, _GZIP_LEVEL, mtime=0))
        progress.finish(f"{len(archive) / 1e6:.1f} MB for {guest.release}")

    owner = cache if cache is not None else Cache()
    return owner.entry("initramfs", key, build, label=f"initramfs for {guest.release}") / "initramfs"


def initramfs_tree(
    guest: Guest, *, programs: Mapping[str, Path], modules: Sequence[str], overrides: Mapping[str, Path]
) -> Tree:
    """The files of the image. Raises as :func:`build_initramfs` does."""
    loaded = load_order(ModuleTree(guest.modules), modules, overrides)
    check_release(guest, loaded)
    tree = Tree()
    _add_skeleton(tree)
    for name, path in sorted(programs.items()):
        tree.add_file(f"{'sbin' if name == 'vcap-agent' else 'bin'}/{name}", path, 0o755)
    for package, path_inside in USERLAND:
        _add_program(tree, guest.root, package, path_inside)
    _add_modules(tree, guest.release, loaded)
    _add_busybox(tree, guest.root)
    return tree


def check_release(guest: Guest, modules: Iterable[Module]) -> None:
    """Refuse a kernel image that cannot load these modules, before a guest is booted in vain.

    :raise UsageError: naming both releases.
    """
    release = kernel_banner(guest.kernel).split(" ")[0]
    for module in modules:
        wanted = module.info.vermagic.split(" ")[0]
        if wanted != release:
            raise UsageError(
                f"the kernel {guest.kernel} is {release}, and {module.source} was built for {wanted}: give "
                "the modules of that kernel too (--kdir BUILT_TREE)"
            )


def _add_skeleton(tree: Tree) -> None:
    for name in _DIRECTORIES:
        tree.add_dir(name, 0o1777 if name == "tmp" else 0o700 if name == "root" else 0o755)
    # The kernel opens the console before init can mount devtmpfs.
    tree.add_node("dev/console", "c", 5, 1)
    tree.add_node("dev/null", "c", 1, 3, 0o666)
    tree.add_file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    tree.add_file("etc/group", b"root:x:0:\nvideo:x:44:\n")
    tree.add_file("init", resource_dir("guest") / "init", 0o755)


def _add_modules(tree: Tree, release: str, modules: Sequence[Module]) -> None:
    """Modules, /etc/modules (a path below the release a line, in load order), modules.dep for modprobe."""
    base = f"lib/modules/{release}"
    targets = {module.info.name or module.source.stem: module.target for module in modules}
    by_name = {name.replace("-", "_"): target for name, target in targets.items()}
    dependencies = []
    for module in modules:
        tree.add_file(f"{base}/{module.target}", module.image)
        needed = [by_name[d.replace("-", "_")] for d in module.info.depends if d.replace("-", "_") in by_name]
        dependencies.append(f"{module.target}: {' '.join(needed)}".rstrip() + "\n")
    tree.add_file("etc/modules", "".join(f"{module.target}\n" for module in modules).encode())
    tree.add_file(f"{base}/modules.dep", "".join(dependencies).encode())


def _add_busybox(tree: Tree, root: Path) -> None:
    """Busybox and a link for each applet whose place is still free."""
    source = _required(root, "busybox-static", ("bin/busybox", "usr/bin/busybox"))
    tree.add_file("bin/busybox", source, 0o755)
    for applet in _applets(source):
        if applet not in tree:
            tree.add_symlink(applet, "/bin/busybox")


def _applets(busybox: Path) -> list[str]:
    """Paths of the applets without leading slash ("usr/bin/awk"), as busybox itself lists them."""
    try:
        result = subprocess.run(
            [busybox, "--list-full"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"cannot run {busybox} to list its applets: {error}") from None
    applets = [line.strip().lstrip("/") for line in result.stdout.splitlines() if line.strip()]
    if result.returncode or "bin/sh" not in applets:
        raise SetupError(f"{busybox} --list-full does not list a shell; is busybox-static in the recipe?")
    return applets


def _add_program(tree: Tree, root: Path, package: str, inside: str) -> None:
    """A program of the root, with its loader and every library that it needs, directly or not."""
    source = _required(root, package, (inside, inside.removeprefix("usr/"), "usr/sbin/" + Path(inside).name))
    data = source.read_bytes()
    tree.add_file(inside, data, 0o755)
    pending = [(inside, data)]
    while pending:
        user, image = pending.pop()
        try:
            linkage = Elf(image).linkage()
        except ElfError as error:
            raise SetupError(f"cannot read {user} of the unpacked packages: {error}") from None
        # Who names the loader as a library has it mapped already: it runs the program.
        names = [name for name in linkage.needed if not name.startswith("ld-linux")]
        places = [(name, _library(root, name, linkage.runpath, user)) for name in names]
        targets = [(f"lib/x86_64-linux-gnu/{name}", path) for name, path in places]
        if linkage.interpreter is not None:
            loader = linkage.interpreter.lstrip("/")
            targets.append((loader, _required(root, "libc6", (loader, f"usr/{loader}"))))
        for target, path in targets:
            if target not in tree:
                content = path.read_bytes()
                tree.add_file(target, content, 0o755)
                pending.append((target, content))


def _library(root: Path, name: str, runpath: tuple[str, ...], user: str) -> Path:
    own = [path.replace("$ORIGIN", posixpath.dirname(user)).strip("/") for path in runpath]
    for directory in (*own, *_LIBRARY_DIRS):
        path = resolve_in_root(root, f"{directory}/{name}")
        if path is not None:
            return path
    raise SetupError(f"{user} needs the library {name}, which no unpacked package has; add it to the recipe")


def _required(root: Path, package: str, candidates: Iterable[str]) -> Path:
    names = list(candidates)
    for name in names:
        path = resolve_in_root(root, name)
        if path is not None:
            return path
    raise SetupError(f"/{names[0]} is not in the unpacked packages; add {package} to the recipe")
