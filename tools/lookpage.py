# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens report pages in a headless Chromium, and says what it made of them: ``lookpage.py PAGE.html ...``.

Optional: ``apt-get install chromium``; CHROMIUM names another one. For each page: what the browser complained
of (scripts, the page's own content policy), and how many tests, tracks, marks and pictures it laid out. The
counts are of the browser's own tree of the page, not of its text, so that a page that is cut short, or whose
markup breaks in the middle, shows fewer.

Exit status: 0 when each page has tests and nobody complained, 10 otherwise, 20 without a browser, 2 for
wrong usage.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from vcapdev.errors import SetupError, UsageError, VcapdevError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60.0  # for one page; a browser that cannot start hangs
_COMPLAINT = re.compile(r":CONSOLE[^\]]*\] (.*)")  # Chromium's log, whatever the severity


@dataclass
class Look:
    """What a browser made of a page.

    :ivar complaints: lines of its console.
    :ivar bands: names of the timelines' tracks, each once.
    """

    complaints: list[str]
    tests: int = 0
    timelines: int = 0
    tracks: int = 0
    marks: int = 0
    pictures: int = 0
    bands: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Something is shown, and nothing was complained of."""
        return self.tests > 0 and not self.complaints

    def told(self) -> str:
        """One line."""
        counts = (
            f"{self.tests} tests, {self.timelines} timelines of {self.tracks} tracks with {self.marks} marks"
            f" ({', '.join(self.bands) or 'none'}), {self.pictures} pictures"
        )
        return f"{counts}; {len(self.complaints)} complaints of the browser"


class _Counter(HTMLParser):
    """Counts in the browser's tree as it gives it out."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look, self._inside, self._at_track = look, 0, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        look, values = self._look, dict(attrs)
        if tag == "section":
            look.tests += 1
        elif tag == "svg":
            look.timelines += 1
            self._inside += 1
        elif tag == "img":
            look.pictures += 1
        elif self._inside and tag == "rect":
            look.marks += 1
        elif self._inside and tag == "text" and values.get("x") == "4":  # vcapdev/scenario/svg.py
            look.tracks += 1
            self._at_track = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg":
            self._inside -= 1
        self._at_track = False

    def handle_data(self, data: str) -> None:
        if self._at_track and data not in self._look.bands:
            self._look.bands.append(data)


def read(tree: str, log: str) -> Look:
    """What there is in the browser's tree of a page, and what its log complains of."""
    look = Look([found.strip() for found in _COMPLAINT.findall(log)])
    _Counter(look).feed(tree)
    return look


def browser() -> str:
    """The browser's path. :raise SetupError: there is none."""
    wanted = os.environ.get("CHROMIUM")
    for name in (wanted,) if wanted else _NAMES:
        if path := shutil.which(name):
            return path
    raise SetupError(
        f"no {wanted or 'Chromium'} on this machine: install it (apt-get install chromium), or set CHROMIUM"
    )


def look_at(program: str, page: Path) -> Look:
    """Open one page.

    :raise UsageError: there is no such file.
    :raise SetupError: the browser does not start, or gives nothing out.
    """
    if not page.is_file():
        raise UsageError(f"{page}: there is no such page; write one with vcapdev scenario --html")
    with tempfile.TemporaryDirectory(prefix="vcap-look-") as profile:
        argv = [program, "--headless", "--disable-gpu", f"--user-data-dir={profile}"]
        argv += ["--enable-logging=stderr"]
        argv += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own rule for root
        argv += ["--dump-dom", page.absolute().as_uri()]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SetupError(f"{program} does not open {page}: {error}") from error
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise SetupError(f"{program} does not open {page} (status {done.returncode}): {last}")
    return read(done.stdout, done.stderr)


def main(names: list[str]) -> int:
    """Look at all of them."""
    if not names or any(name.startswith("-") for name in names):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        program = browser()
        looks = [(name, look_at(program, Path(name))) for name in names]
    except VcapdevError as error:
        print(f"lookpage: {error}", file=sys.stderr)
        return int(error.exit_status)
    for name, look in looks:
        print(f"{name}: {look.told()}")
        for line in look.complaints:
            print(f"  {line}")
    return 0 if all(look.good for _, look in looks) else 10


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
