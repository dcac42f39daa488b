# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects lock files: what is written is read back, what is damaged or evil is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.image.lock import Package, Resolution, dump_lock, read_lock, write_lock

PACKAGE = Package("tool", "1:2.0-1~bpo+1", "ab" * 32, "bookworm", 5, "amd64", "main", "pool/t/tool.deb")
ONE = Resolution("one", "k" * 64, (PACKAGE,), ("a warning",))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    other = Resolution("two", "j" * 64, (PACKAGE,))
    write_lock(tmp_path / "lock.json", [ONE, other])
    assert read_lock(tmp_path / "lock.json", "one") == ONE
    assert read_lock(tmp_path / "lock.json", "two") == other


def test_a_recipe_that_is_not_in_it_is_named(tmp_path: Path) -> None:
    write_lock(tmp_path / "lock.json", [ONE])
    with pytest.raises(UsageError, match=r"does not hold recipe 'two' \(it holds: one\)"):
        read_lock(tmp_path / "lock.json", "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../evil"}, "bad value '../evil'"),
        ({"version": "1/../../x"}, "bad value '1/../../x'"),
        ({"sha256": "short"}, "bad value 'short'"),
        ({"path": "../../etc/passwd"}, "bad path of package tool"),
        ({"path": "/etc/passwd"}, "bad path of package tool"),
        ({"size": -1}, "bad size"),
        ({"size": "5"}, "bad size"),
        ({"architecture": "a/b"}, "bad size or architecture"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"name": 5}, "bad value 5"),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = json.loads(dump_lock([ONE]))
    data["recipes"]["one"]["packages"][0].update(change)
    (tmp_path / "lock.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=message) as caught:
        read_lock(tmp_path / "lock.json", "one")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a lock file"),
        ('{"format": "vcapdev-lock", "version": 99}', "is not a lock file of this version"),
        ('{"format": "vcapdev-lock", "version": 1}', "it holds: none"),
        ('{"format": "vcapdev-lock", "version": 1, "recipes": {"one": {}}}', "recipe 'one': 'packages'"),
        (
            '{"format": "vcapdev-lock", "version": 1, "recipes": {"one": {"key": "", "packages": []}}}',
            "no packages",
        ),
        ('{"format": "vcapdev-lock", "version": 1, "recipes": {"one": 5}}', "recipe 'one'"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_lock(tmp_path / "lock.json", "one")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read lock file .*none.json: No such file"):
        read_lock(tmp_path / "none.json", "one")


def test_file_names_tell_versions_and_contents_apart() -> None:
    assert PACKAGE.file_name == "tool_1%3a2.0-1~bpo+1_amd64.abababababab.deb"
