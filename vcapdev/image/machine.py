# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine itself must bring: a few Debian tools, named with the command that installs them."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vcapdev.errors import SetupError


@dataclass(frozen=True)
class Need:
    """One thing that the machine must have, the Debian package that brings it, and what it is for."""

    what: str
    package: str
    purpose: str
    present: Callable[[], bool]


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _any_program(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


def _can_make_venv() -> bool:
    """Debian splits ensurepip off. Inside a virtual environment the question is settled."""
    return sys.prefix != sys.base_prefix or all(find_spec(name) for name in ("venv", "ensurepip"))


@functools.cache
def _has_static_libc() -> bool:
    """Whether the C compiler finds libc.a: it prints the bare name back when it does not."""
    try:
        result = subprocess.run(
            ["gcc", "-print-file-name=libc.a"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return os.path.isabs(result.stdout.strip())


#: "packages": Debian's archive; "programs": the guest's C programs; "modules": altered drivers; "setup": make
NEEDS = (
    Need("apt-get", "apt", "packages", _program("apt-get")),
    Need("apt-helper", "apt", "packages", lambda: Path("/usr/lib/apt/apt-helper").is_file()),
    Need("dpkg-deb", "dpkg", "packages", _program("dpkg-deb")),
    Need("a signature checker (gpgv or sqv)", "gpgv", "packages", _any_program("gpgv", "sqv")),
    Need("gcc", "gcc", "programs", _program("gcc")),
    Need("static C library (libc.a)", "libc6-dev", "programs", _has_static_libc),
    Need("make", "make", "modules", _program("make")),
    Need("patch", "patch", "modules", _program("patch")),
    Need("python3-venv", "python3-venv", "setup", _can_make_venv),
)


def missing(*purposes: str) -> list[Need]:
    """What this machine lacks for ``purposes`` (all when none is given)."""
    wanted = [need for need in NEEDS if not purposes or need.purpose in purposes]
    return [need for need in wanted if not need.present()]


def install_command(needs: Iterable[Need]) -> str:
    """The exact command that installs what is missing, as the user that this is."""
    command = f"apt-get install {' '.join(dict.fromkeys(need.package for need in needs))}"
    if os.geteuid() == 0:
        return command
    return f"sudo {command}" if shutil.which("sudo") else f'su -c "{command}"'  # not every Debian has sudo


def require(*purposes: str) -> None:
    """Check that the machine has what ``purposes`` need.

    :raise SetupError: names all that is missing and the one command that installs it.
    """
    wrong = wrong_platform()
    if wrong:
        raise SetupError(wrong)
    lacking = missing(*purposes)
    if lacking:
        names = ", ".join(need.what for need in lacking)
        raise SetupError(f"this machine lacks {names}: run '{install_command(lacking)}'")


def wrong_platform() -> str:
    """Why vcapdev cannot work on this machine at all; "" when it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"vcapdev needs Linux on x86_64, not {sys.platform} on {platform.machine()}"
    return ""
