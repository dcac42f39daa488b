# SPDX-License-Identifier: GPL-2.0-or-later
"""Run patch and the kernel's own build, and check what came of it.

What is built has to fit: the same vermagic as the stock module of that name, and the same checksum
(modversions) for every symbol that it exports, so that the other stock drivers link with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.apttool import die_with_parent, end_group
from vcapdev.image.modules import ModuleTree, parse_modinfo
from vcapdev.image.toolchain import Toolchain
from vcapdev.progress import Progress


class BuildError(SetupError):
    """A driver does not compile, or what was compiled would not load.

    :ivar output: all that the build has said against it.
    """

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


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


def run_make(
    toolchain: Toolchain, release: str, build: Path, label: str, progress: Progress, jobs: int | None = None
) -> str:
    """Run the kernel's build on the prepared directory, with ``jobs`` at a time (as many as there are CPUs).

    Neither debug information nor BTF is made: the latter would need the kernel's vmlinux.

    :return: what the build complains of all the same.
    :raise BuildError: with the first error that the build prints.
    """
    headers = toolchain.headers / f"usr/src/linux-headers-{release}"
    argv = ["make", "-C", str(headers), f"M={build}", f"-j{jobs or os.cpu_count() or 1}"]
    argv += [f"CC={toolchain.compiler}"]
    argv += [f"KCFLAGS=-g0 -ffile-prefix-map={build}/=", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    expected = len(list(build.glob("*.c"))) * 2
    progress.start(label, expected, "steps")
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        status = _count_steps(argv, toolchain.environment(), errors.fileno(), progress)
        errors.seek(0)
        text = errors.read().replace(f"{build}/", "")
    if status:
        progress.finish("failed")
        raise BuildError(f"the driver does not compile with {toolchain.version}: {_first_error(text)}", text)
    progress.finish(f"with {toolchain.version}")
    return text


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

    :raise BuildError: naming the first symbol that differs.
    """
    stock = _symvers(headers / f"usr/src/linux-headers-{release}/Module.symvers")
    for symbol, checksum in _symvers(build / "Module.symvers").items():
        if stock.get(symbol, checksum) != checksum:
            raise BuildError(
                f"the built driver exports {symbol} as {checksum}, the stock kernel as {stock[symbol]}: "
                "other modules would not load with it; the diff must not change interfaces"
            )


def _symvers(path: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {row[1]: row[0] for row in rows if len(row) >= 2}


def check_module(tree: ModuleTree, name: str, built: Path) -> bytes:
    """Check a built module against the stock one of the same name, which is returned.

    :raise BuildError: when they differ.
    """
    stock = tree.load(name)
    info = parse_modinfo(built.read_bytes())
    if stock is None:
        raise BuildError(f"the kernel in {tree.root} has no module {name} that could be replaced")
    if info.vermagic != stock.info.vermagic:
        raise BuildError(
            f"{name} was built for {info.vermagic!r}, and the kernel's own is for {stock.info.vermagic!r}"
        )
    return stock.image
