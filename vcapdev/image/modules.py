# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules: what they say of themselves, and the order in which they have to be loaded.

A package that is only unpacked has no modules.dep, so the order comes from the ``depends=`` that every module
carries in its .modinfo section (kernel scripts/mod/modpost.c writes it), and from its ``softdep=``.
Names are compared as the kernel does, with "-" and "_" being the same.
"""

from __future__ import annotations

import lzma
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import zstandard

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.elf import Elf, ElfError

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst")
#: A module is at most some MB; a file that unpacks to more is none (a guard for --module FILE).
_MAX_UNPACKED = 256 << 20
#: Where modules live that others ask for by alias (``softdep: pre: crc32c``); the rest is not searched.
_ALIAS_DIRECTORIES = ("kernel/crypto", "kernel/arch/x86/crypto", "kernel/lib")


def canonical(name: str) -> str:
    """A module's name as the kernel compares it."""
    return name.replace("-", "_")


@dataclass(frozen=True)
class ModuleInfo:
    """What .modinfo says. ``softdep_pre`` are to be loaded before, if they exist."""

    name: str
    vermagic: str
    depends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    softdep_pre: tuple[str, ...] = ()
    softdep_post: tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """A module ready to be put into an image: its information and its content, decompressed."""

    info: ModuleInfo
    image: bytes
    source: Path
    #: Path below /lib/modules/RELEASE, without a compression suffix.
    target: str


def read_image(path: Path) -> bytes:
    """The content of a .ko, .ko.xz or .ko.zst file, decompressed.

    :raise SetupError: when it cannot be read or decompressed.
    """
    try:
        raw = path.read_bytes()
        if raw[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(raw, max_length=_MAX_UNPACKED)
        if raw[:4] == b"\x28\xb5\x2f\xfd":
            with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
                return reader.read(_MAX_UNPACKED)
    except OSError as error:
        raise SetupError(f"cannot read the module {path}: {error.strerror}") from None
    except (lzma.LZMAError, zstandard.ZstdError) as error:
        raise SetupError(f"cannot decompress the module {path}: {error}; is the file damaged?") from None
    return raw


def parse_modinfo(image: bytes) -> ModuleInfo:
    """Read .modinfo of a module's decompressed content.

    :raise ElfError: when it is no kernel module.
    """
    section = Elf(image).section(".modinfo")
    if section is None:
        raise ElfError("no .modinfo section")
    fields: dict[str, list[str]] = {}
    for item in section.split(b"\0"):
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if equals:
            fields.setdefault(key, []).append(value)
    pre, post = _softdeps(fields.get("softdep", []))
    return ModuleInfo(
        name=fields.get("name", [""])[0],
        vermagic=fields.get("vermagic", [""])[0].strip(),
        depends=tuple(d for d in ",".join(fields.get("depends", [])).split(",") if d),
        aliases=tuple(fields.get("alias", [])),
        softdep_pre=pre,
        softdep_post=post,
    )


def _softdeps(lines: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[str, list[str]] = {"pre:": [], "post:": []}
    for line in lines:
        current: list[str] | None = None
        for word in line.split():
            if word.endswith(":"):
                current = found.get(word)
            elif current is not None:
                current.append(word)
    return tuple(found["pre:"]), tuple(found["post:"])


def _stem(filename: str) -> str | None:
    for suffix in _SUFFIXES:
        if filename.endswith(suffix):
            return canonical(filename[: -len(suffix)])
    return None


class ModuleTree:
    """The modules of one kernel: a directory /lib/modules/RELEASE, or a built kernel tree.

    :raise SetupError: when the directory holds no modules.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_built_tree = (root / "include/config/kernel.release").is_file()
        self._cache: dict[str, Module] = {}

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Every module's file by canonical name; the real one may carry a compression suffix as well."""
        if not self._found:
            raise SetupError(f"{self.root} holds no kernel modules; is the kernel package complete?")
        return self._found

    @cached_property
    def _found(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in self._files():
            stem = _stem(path.name)
            if stem is not None:
                found.setdefault(stem, path)
        return found

    @cached_property
    def builtin(self) -> frozenset[str]:
        """Canonical names of the modules that are built into the kernel (modules.builtin)."""
        listed = self.root / "modules.builtin"
        if not listed.is_file():
            return frozenset()
        stems = (_stem(os.path.basename(line.strip())) for line in listed.read_text().splitlines())
        return frozenset(stem for stem in stems if stem)

    def load(self, name: str) -> Module | None:
        """The module of that name, read and parsed; None when there is no file for it.

        :raise SetupError: when its file is damaged.
        """
        key = canonical(name)
        if key not in self._cache:
            path = _existing(self.paths.get(key))
            if path is None:
                return None
            self._cache[key] = _read_module(path, self._target(path))
        return self._cache[key]

    def lacks(self, name: str) -> bool:
        """Whether there are modules, but not this one, and it is not built into the kernel either."""
        key, names = canonical(name), self._found
        return bool(names) and key not in self.builtin and _existing(names.get(key)) is None

    def any_module(self) -> Module:
        """Some module of the kernel, to compare others with. :raise SetupError: when it has none."""
        for name in self.paths:
            module = self.load(name)
            if module is not None:
                return module
        raise SetupError(f"{self.root} holds no kernel modules; is the kernel package complete?")

    def by_alias(self, alias: str) -> str | None:
        """The canonical name of the module with exactly this alias; only library modules are searched."""
        return self._aliases.get(alias)

    @cached_property
    def _aliases(self) -> dict[str, str]:
        found: dict[str, str] = {}
        tops = tuple(str(self.root / top) + "/" for top in _ALIAS_DIRECTORIES)
        for name, path in sorted(self.paths.items()):
            if str(path).startswith(tops):
                module = self.load(name)
                for alias in module.info.aliases if module else ():
                    found.setdefault(alias, name)
        return found

    def _files(self) -> Iterator[Path]:
        listed = self.root / "modules.order"
        if listed.is_file():
            return self._listed(listed.read_text())
        return self._walked(self.root if self.is_built_tree else self.root / "kernel")

    def _listed(self, text: str) -> Iterator[Path]:
        """Files as modules.order names them: uncompressed, and as objects (.o) in a tree built since 6.4."""
        for line in text.splitlines():
            yield self.root / (line.strip().removesuffix(".o").removesuffix(".ko") + ".ko")

    @staticmethod
    def _walked(top: Path) -> Iterator[Path]:
        for directory, directories, files in os.walk(top):
            directories.sort()
            yield from (Path(directory, name) for name in sorted(files))

    def _target(self, path: Path) -> str:
        inside = path.relative_to(self.root).as_posix()
        plain = inside.removesuffix(".xz").removesuffix(".zst")
        return f"kernel/{plain}" if self.is_built_tree else plain


def _existing(path: Path | None) -> Path | None:
    """The file itself or its compressed form."""
    if path is None or path.is_file():
        return path
    return next((p for s in (".xz", ".zst") if (p := path.with_name(path.name + s)).is_file()), None)


def _read_module(path: Path, target: str) -> Module:
    image = read_image(path)
    try:
        info = parse_modinfo(image)
    except ElfError as error:
        raise SetupError(f"{path} is no kernel module: {error}") from None
    return Module(info, image, path, target)


#: What builds the modules that every guest asks for, to be named to whoever brings a kernel of his own.
_OPTIONS = {
    **{"virtio_pci": "VIRTIO_PCI", "virtio_blk": "VIRTIO_BLK", "virtio_console": "VIRTIO_CONSOLE"},
    **{"zram": "ZRAM", "bttv": "VIDEO_BT848"},
}


def _named(module: str) -> str:
    return f"{module} (CONFIG_{_OPTIONS[module]})" if module in _OPTIONS else module


def load_order(
    tree: ModuleTree, wanted: Iterable[str], overrides: Mapping[str, Path] | None = None
) -> list[Module]:
    """Everything that has to be loaded for ``wanted``, dependencies first, each once.

    ``overrides`` (name -> file) replace stock modules of the same name, or add new ones; they are loaded
    whether wanted or not, since somebody asked for them. Names that are built into the kernel need nothing.

    :raise UsageError: when a replacement is no module, has another name, or was built for another kernel.
    :raise SetupError: when a module is neither there nor built in, naming all that are missing.
    """
    replacements = {canonical(name): _override(name, path) for name, path in (overrides or {}).items()}
    resolver = _Resolver(tree, replacements)
    for name in (*wanted, *replacements):
        resolver.visit(canonical(name), needed_by="")
    if resolver.missing:
        named = {n: f"{n} (CONFIG_{_OPTIONS[n]})" if n in _OPTIONS else n for n in resolver.missing}
        names = ", ".join(
            named[n] + (f" (needed by {by})" if by else "") for n, by in resolver.missing.items()
        )
        raise SetupError(f"the kernel in {tree.root} has no module {names}; choose another kernel or recipe")
    _check_vermagic(tree, replacements)
    return resolver.order


def _override(name: str, path: Path) -> Module:
    try:
        image = read_image(path)
        info = parse_modinfo(image)
    except (ElfError, SetupError) as error:
        raise UsageError(f"{path} cannot replace the module {name}: {error}") from None
    if info.name and canonical(info.name) != canonical(name):
        raise UsageError(f"{path} is the module {info.name}, not {name}; rename nothing, build the right one")
    return Module(info, image, path, f"updates/{canonical(name)}.ko")


def module_name(path: Path) -> str:
    """The canonical name of the module in a file, as ``--module FILE`` replaces by it.

    :raise UsageError: when the file is no kernel module.
    """
    try:
        info = parse_modinfo(read_image(path))
    except (ElfError, SetupError) as error:
        raise UsageError(f"--module {path}: {error}") from None
    name = info.name or _stem(path.name)
    if not name:
        raise UsageError(f"--module {path}: the file does not say which module it is; name it NAME.ko")
    return canonical(name)


class _Resolver:
    """Depth first over ``depends`` and ``softdep pre``, so that a dependency precedes its user."""

    def __init__(self, tree: ModuleTree, replacements: Mapping[str, Module]) -> None:
        self._tree, self._replacements = tree, replacements
        self._seen: set[str] = set()
        self.order: list[Module] = []
        self.missing: dict[str, str] = {}

    def visit(self, name: str, needed_by: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        module = self._replacements.get(name) or self._tree.load(name)
        if module is None:
            if name not in self._tree.builtin:
                self.missing[name] = needed_by
            return
        for soft in module.info.softdep_pre:
            self._visit_soft(soft, name)
        for dependency in module.info.depends:
            self.visit(canonical(dependency), needed_by=name)
        self.order.append(module)

    def _visit_soft(self, wish: str, needed_by: str) -> None:
        name = canonical(wish)
        if name in self._tree.builtin:
            return
        if self._tree.load(name) is None:
            name = self._tree.by_alias(wish) or ""
        if name:
            self.visit(name, needed_by)


def _check_vermagic(tree: ModuleTree, replacements: Mapping[str, Module]) -> None:
    """Refuse replacements that were built for another kernel than the stock modules.

    The kernel itself is more lenient where symbols have checksums, and fails at the first that differs.
    """
    for name, module in replacements.items():
        stock = tree.load(name) or tree.any_module()
        if module.info.vermagic != stock.info.vermagic:
            raise UsageError(
                f"{module.source} was built for {module.info.vermagic!r}, and the guest's kernel is "
                f"{stock.info.vermagic!r}; build it against that kernel's headers"
            )


def kernel_banner(image: Path) -> str:
    """The version line of an x86 kernel image ("6.1.0-9-amd64 (who@where) #1 SMP ... Debian 6.1.1-1 (date)").

    Source: Documentation/x86/boot.rst, fields "header" at 0x202 and "kernel_version" at 0x20e.

    :raise UsageError: when the file is no such image.
    """
    try:
        with image.open("rb") as file:
            head = file.read(0x10000)
    except OSError as error:
        raise UsageError(f"cannot read the kernel {image}: {error.strerror}") from None
    if head[0x202:0x206] != b"HdrS":
        raise UsageError(f"{image} is no bootable x86 Linux kernel (a bzImage or vmlinuz is needed)")
    start = struct.unpack_from("<H", head, 0x20E)[0] + 0x200
    return head[start : head.find(b"\0", start)].decode("ascii", "replace")


@dataclass(frozen=True)
class BuiltKernel:
    """What ``--kdir`` gives: a kernel tree that somebody has built."""

    release: str
    kernel: Path
    modules: Path


def built_kernel(kdir: Path) -> BuiltKernel:
    """Look into a built kernel tree (``make bzImage modules`` done).

    :raise UsageError: when it lacks the image, its release or all modules.
    """
    release = kdir / "include/config/kernel.release"
    kernel = kdir / "arch/x86/boot/bzImage"
    for path in (release, kernel):
        if not path.is_file():
            raise UsageError(f"--kdir {kdir} is no built kernel tree: {path.relative_to(kdir)} is missing")
    return BuiltKernel(release.read_text().strip(), kernel, kdir)
