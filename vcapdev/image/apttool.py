# SPDX-License-Identifier: GPL-2.0-or-later
"""Running apt's and dpkg's tools, and saying in one line what went wrong."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vcapdev.errors import SetupError
from vcapdev.image.cache import disk_full

_POLL = 0.1  # seconds
_PATIENCE = 5.0  # seconds between SIGTERM and SIGKILL


class UnresolvableError(SetupError):
    """apt finds no set of packages; perhaps another version of one would do."""


def run_tool(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, poll: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of apt's tools to its end; when we are interrupted or killed, it ends as well.

    ``poll`` is called several times a second meanwhile.

    :raise SetupError: when the machine lacks it.
    """
    try:
        with subprocess.Popen(
            die_with_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
            cwd=cwd,
            start_new_session=True,
            restore_signals=False,  # keep SIGXFSZ ignored: a file size limit is then an error message
        ) as process:
            try:
                out, err = _communicate(process, poll)
            except BaseException:
                end_group(process)
                raise
    except FileNotFoundError as error:
        raise SetupError(f"this machine has no {argv[0]}: vcapdev needs Debian's apt package") from error
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _communicate(process: subprocess.Popen[str], poll: Callable[[], None] | None) -> tuple[str, str]:
    while poll is not None:
        try:
            return process.communicate(timeout=_POLL)
        except subprocess.TimeoutExpired:
            poll()
    return process.communicate()


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process that was started in a session of its own, and all of its children.

    They get SIGTERM, on which apt notes how far it is, then SIGKILL. (dpkg-deb dies of SIGTERM, but its
    children would go on unpacking.)
    """
    if process.returncode is not None:
        return  # its number may be somebody else's by now
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        ended = os.WEXITED | os.WNOWAIT | os.WNOHANG  # not yet reaped, so that the group stays ours
        while os.waitid(os.P_PID, process.pid, ended) is None and time.monotonic() < end:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent(argv: Sequence[str]) -> list[str]:
    """``argv`` so that the kernel ends it when we die without a chance to (setpriv of util-linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *argv] if setpriv else list(argv)


def unresolvable(output: str, names: Sequence[str], cache_root: Path) -> SetupError:
    """The error for packages that apt cannot find or combine."""
    for pattern in (
        r"E: (Unable to locate package \S+)",
        r"E: (Package '\S+' has no installation candidate)",
        r"E: (Version '\S+' for '\S+' was not found)",
        r"^ (\S+ : Depends: .+)",
        r"E: (Can't find a source to download version .+)",
    ):
        match = re.search(pattern, output, re.M)
        if match:
            reason = " ".join(match[1].split())
            return UnresolvableError(
                f"the mirror's indexes cannot give {', '.join(names)}: {reason}; refresh them (--refresh), "
                "or correct the recipe"
            )
    return explain(output, cache_root, ", ".join(names))


_EXPLANATIONS = (
    (
        r"BADSIG|NO_PUBKEY|EXPKEYSIG|REVKEYSIG|NODATA|is not signed|Clearsigned file isn't valid|"
        r"signatures? (?:were|was|couldn't|could not)|OpenPGP|[Mm]issing key",
        "the signature of {what} is not good, refused ({line}): use an honest mirror, or install the current "
        "debian-archive-keyring",
    ),
    (
        r"Release file for .* is expired",
        "the mirror's Release file is past its date ({line}): use a fresher mirror, or set allow-expired in "
        "the recipe",
    ),
    (r"is not valid yet", "a Release file is dated in the future ({line}): set this machine's clock"),
    (
        r"Could not resolve|Could not connect|Connection (?:failed|timed out|refused)|Network is unreachable|"
        r"Temporary failure|Unable to connect|Cannot initiate the connection|No route to host",
        "no network to get {what} ({line}): connect, set a proxy in apt's configuration, or set "
        "VCAPDEV_MIRROR",
    ),
    (
        r"does not have a Release file",
        "the mirror lacks a suite ({line}): set VCAPDEV_MIRROR to a mirror that has it",
    ),
    (
        r"Hash Sum mismatch|unexpected size",
        "the mirror sent a file that does not match its checksum ({line}): try again later or use another "
        "mirror",
    ),
    (
        r"404|File not found",
        "the mirror lacks a file of {what} ({line}): try again with --refresh or another mirror",
    ),
)
_NO_SPACE = re.compile(
    r"No space left on device|Wrote only \d+ of \d+ bytes|File too large|Disk quota exceeded|"
    r"received signal 25|have enough free space"
)


def explain(stderr: str, cache_root: Path, what: str) -> SetupError:
    """Turn what apt printed (in the C locale) into one clear line."""
    if _NO_SPACE.search(stderr):
        return disk_full(cache_root)
    lines = [
        line for line in stderr.splitlines() if line.startswith(("E:", "W:", "Err:"))
    ] or stderr.splitlines()
    for pattern, text in _EXPLANATIONS:
        for line in [line for line in stderr.splitlines() if re.search(pattern, line)]:
            return SetupError(text.format(what=what, line=_shorten(line)))
    first = _shorten(lines[0]) if lines else "apt ended without a message"
    return SetupError(f"apt could not get {what}: {first}")


def _shorten(line: str) -> str:
    text = " ".join(re.sub(r"^\s*(E|W|Err:\d+):\s*", "", line).split())
    return text if len(text) <= 240 else text[:237] + "..."
