# SPDX-License-Identifier: GPL-2.0-or-later
"""Build altered drivers (guest/mutants) as modules that the stock kernel loads.

Image, headers and sources are of one identical version, the compiler is the one that the kernel was built
with, and the result is checked before it is used: the same vermagic as the stock module, and the same
checksum (modversions) for every symbol that it exports, so that the other stock drivers link with it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import machine
from vcapdev.image.apttool import die_with_parent, end_group
from vcapdev.image.cache import Cache, digest
from vcapdev.image.modules import ModuleTree, parse_modinfo
from vcapdev.image.mutants import UNALTERED, Mutant, find_mutant, mutants
from vcapdev.image.recipe import Recipe
from vcapdev.image.sources import KernelVersion, PackagedGuest, driver_sources, header_tree, kernel_version
from vcapdev.image.toolchain import Toolchain, choose_toolchain
from vcapdev.progress import Progress

__all__ = ["Mutant", "build_mutant", "find_mutant", "mutants"]

_V4L2 = "drivers/media/v4l2-core"
_VB2 = "drivers/media/common/videobuf2"
_BTTV = "drivers/media/pci/bt8xx"
#: Modules that can be built: name -> path of the source, or of the directory whose Makefile lists objects.
PARTS = {
    "videobuf-core": f"{_V4L2}/videobuf-core.c",
    "videobuf-dma-sg": f"{_V4L2}/videobuf-dma-sg.c",
    "videobuf2-dma-sg": f"{_VB2}/videobuf2-dma-sg.c",
    "bttv": _BTTV,
}


def build_mutant(
    recipe: Recipe,
    guest: PackagedGuest,
    name: str | None,
    progress: Progress,
    *,
    cache: Cache | None = None,
    private_toolchain: bool = False,
) -> dict[str, Path]:
    """Modules (name -> .ko) of an altered driver for the guest's kernel, from the cache if built before.

    ``name`` None or "unaltered" builds the driver as it is, all of its modules, the same way.

    :raise UsageError: no such driver, or it does not fit this kernel.
    :raise SetupError: packages of one version, compiler, make or patch are missing, or the build fails.
    """
    mutant = None if name is None or name == UNALTERED else find_mutant(name)
    kernel = kernel_version(guest)
    owner = cache if cache is not None else Cache()
    if re.search(r"[\s:]", str(owner.root)):
        raise SetupError(
            f"modules cannot be built in the cache at {owner.root}: the kernel's build takes no blank or "
            "colon in a path; set VCAPDEV_CACHE to another directory"
        )
    if mutant is not None:
        check_kernel_has(guest, mutant)
    diff = mutant.diff.read_bytes() if mutant else b""
    # Known without sources and headers, so that a second run looks at nothing else.
    key = digest("modules-3", kernel.sha256, kernel.version, str(private_toolchain), repr(PARTS), diff)
    label = f"{mutant.name if mutant else 'unaltered'} driver for {kernel.release}"

    def build(into: Path) -> None:
        machine.require("modules")
        _build(into, recipe, guest, kernel, mutant, private_toolchain, progress, owner)

    built = owner.entry("modules", key, build, label=label)
    return {path.stem: path for path in sorted(built.glob("*.ko"))}


def check_kernel_has(guest: PackagedGuest, mutant: Mutant) -> None:
    """Refuse a driver that this kernel has not, before 140 MB of its source are fetched.

    :raise UsageError: naming the module. Linux 6.7 has videobuf no longer, bttv is on videobuf2 since 6.6.
    """
    tree = ModuleTree(guest.modules)
    for name, path in PARTS.items():
        touched = any(file == path or file.startswith(f"{path}/") for file in mutant.files)
        if touched and tree.load(name) is None:
            raise UsageError(
                f"{mutant.name} alters the module {name}, which kernel {guest.release} lacks; take an "
                "older kernel, such as bookworm-6.1"
            )


def _build(
    into: Path,
    recipe: Recipe,
    guest: PackagedGuest,
    kernel: KernelVersion,
    mutant: Mutant | None,
    private: bool,
    progress: Progress,
    cache: Cache,
) -> None:
    headers = header_tree(recipe, kernel, progress, cache)
    toolchain = choose_toolchain(recipe, headers, kernel.release, progress, cache, private=private)
    sources = driver_sources(recipe, kernel, progress, cache)
    with tempfile.TemporaryDirectory(prefix="build-", dir=into) as name:
        work = Path(name)
        shutil.copytree(sources, work / "source")
        if mutant is not None:
            apply_diff(mutant.diff, work / "source", kernel.release)
        modules = touched_modules(work / "source", mutant.files if mutant else None)
        prepare_build(work / "source", work / "build", modules)
        label = f"Building the {mutant.name if mutant else 'unaltered'} driver"
        run_make(toolchain, kernel.release, work / "build", label, progress)
        check_symbols(toolchain.headers, kernel.release, work / "build")
        tree = ModuleTree(guest.modules)
        for module in modules:
            built = work / "build" / f"{module}.ko"
            check_module(tree, module, built)
            shutil.copyfile(built, into / built.name)


def apply_diff(diff: Path, source: Path, release: str) -> None:
    """Apply a mutant's diff without fuzz.

    :raise UsageError: when the driver of this kernel is another one than the diff was made for.
    """
    argv = [
        "patch",
        "-p1",
        "--fuzz=0",
        "--batch",
        "--forward",
        "--no-backup-if-mismatch",
        "-i",
        str(diff.absolute()),
    ]
    try:
        result = subprocess.run(
            argv,
            cwd=source,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise SetupError("this machine has no patch: install it (apt-get install patch)") from None
    if result.returncode:
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        said = next(
            (line for line in lines if re.search("FAILED|can't find|ignored", line)), "no reason given"
        )
        raise UsageError(f"{diff.stem} does not fit the driver of kernel {release}: {said.strip()}")


def touched_modules(source: Path, files: Iterable[str] | None) -> list[str]:
    """Which modules are made of ``files``; all that this kernel's bttv is made of when it is None.

    :raise UsageError: when a file belongs to none of them.
    """
    present = {name: path for name, path in PARTS.items() if (source / path).exists()}
    if files is None:
        unused = "videobuf2-dma-sg" if "videobuf-dma-sg" in present else ""
        return [name for name in present if name != unused]
    found: dict[str, None] = {}
    for file in files:
        name = next((n for n, path in present.items() if file == path or file.startswith(f"{path}/")), None)
        if name is None:
            raise UsageError(f"the diff changes {file}, which is in no module of {', '.join(present)}")
        found[name] = None
    return list(found)


def prepare_build(source: Path, build: Path, modules: Sequence[str]) -> None:
    """Lay out a directory for an external build: the sources of ``modules``, flat, and a Kbuild file."""
    build.mkdir()
    lines = ["obj-m := " + " ".join(f"{module}.o" for module in modules)]
    for module in modules:
        part = source / PARTS[module]
        if part.is_file():
            shutil.copyfile(part, build / part.name)
            continue
        for file in sorted(part.glob("*.[ch]")):
            shutil.copyfile(file, build / file.name)
        lines.append(f"{module}-objs := {' '.join(module_objects(part / 'Makefile', module))}")
    (build / "Kbuild").write_text("\n".join(lines) + "\n")


def module_objects(makefile: Path, module: str) -> list[str]:
    """The objects that a kernel Makefile links into ``module``. :raise SetupError: when it lists none."""
    text = makefile.read_text().replace("\\\n", " ")
    match = re.search(rf"^{re.escape(module)}-(?:objs|y)\s*:?\+?=\s*(.*)$", text, re.M)
    if match is None:
        raise SetupError(f"the kernel's Makefile does not say what {module} is made of")
    return match[1].split()


def run_make(toolchain: Toolchain, release: str, build: Path, label: str, progress: Progress) -> None:
    """Run the kernel's build on the prepared directory.

    Neither debug information nor BTF is made: the latter would need the kernel's vmlinux.

    :raise SetupError: with the first error that the build prints.
    """
    headers = toolchain.headers / f"usr/src/linux-headers-{release}"
    argv = ["make", "-C", str(headers), f"M={build}", f"-j{os.cpu_count() or 1}", f"CC={toolchain.compiler}"]
    argv += [f"KCFLAGS=-g0 -ffile-prefix-map={build}/=", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    expected = len(list(build.glob("*.c"))) * 2
    progress.start(label, expected, "steps")
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        status = _count_steps(argv, toolchain.environment(), errors.fileno(), progress)
        errors.seek(0)
        text = errors.read()
    if status:
        progress.finish("failed")
        raise SetupError(
            f"the altered driver does not compile with {toolchain.version}: {_first_error(text)}"
        )
    progress.finish(f"with {toolchain.version}")


def _count_steps(argv: Sequence[str], environment: Mapping[str, str], errors: int, progress: Progress) -> int:
    """Run make in a session of its own, ended with us; a line of output is a step."""
    with subprocess.Popen(
        die_with_parent(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
        env=dict(environment),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for step, _line in enumerate(process.stdout, start=1):
                progress.advance(step)
            return process.wait()
        except BaseException:
            end_group(process)
            raise


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if re.search(r"error|ERROR|\*\*\*|not found", line)]
    return (marked or lines or ["make gave no reason"])[0][:300]


def check_symbols(headers: Path, release: str, build: Path) -> None:
    """Check that what was built exports symbols with the checksums that the stock modules expect.

    :raise SetupError: naming the first symbol that differs.
    """
    stock = _symvers(headers / f"usr/src/linux-headers-{release}/Module.symvers")
    for symbol, checksum in _symvers(build / "Module.symvers").items():
        if stock.get(symbol, checksum) != checksum:
            raise SetupError(
                f"the built driver exports {symbol} as {checksum}, the stock kernel as {stock[symbol]}: "
                "other modules would not load with it; the diff must not change interfaces"
            )


def _symvers(path: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {row[1]: row[0] for row in rows if len(row) >= 2}


def check_module(tree: ModuleTree, name: str, built: Path) -> None:
    """Check a built module against the stock one of the same name. :raise SetupError: when they differ."""
    stock = tree.load(name)
    info = parse_modinfo(built.read_bytes())
    if stock is None:
        raise SetupError(f"the kernel in {tree.root} has no module {name} that could be replaced")
    if info.vermagic != stock.info.vermagic:
        raise SetupError(
            f"{name} was built for {info.vermagic!r}, and the kernel's own is for {stock.info.vermagic!r}"
        )
