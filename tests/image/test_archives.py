# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects how the machine's Debian mirror and keys are found in its own apt configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.image.archives import (
    Archive,
    Source,
    find_archives,
    parse_config,
    parse_deb822,
    parse_one_line,
    read_config,
)
from vcapdev.image.recipe import Suite

BOTH = (Suite("bookworm"), Suite("bookworm-security", "security", optional=True))
SetSources = Callable[[str], Path]


def test_one_line_format() -> None:
    text = """
# deb http://no.invalid/debian bookworm main
deb-src http://no.invalid/debian bookworm main
deb http://flat.invalid/ ./
deb http://a.invalid/debian bookworm main contrib # words
deb [arch=amd64 signed-by=/k/a.gpg trusted=yes] http://b.invalid/debian sid main
"""
    assert list(parse_one_line(text)) == [
        Source("http://a.invalid/debian", ("bookworm",), ("main", "contrib")),
        Source("http://b.invalid/debian", ("sid",), ("main",), "/k/a.gpg", True),
    ]


def test_deb822_format() -> None:
    text = """\
# words
Types: deb deb-src
URIs: http://a.invalid/debian
  http://b.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /k/a.gpg

Types: deb-src
URIs: http://c.invalid/debian
Suites: bookworm
Components: main

types: deb
uris: http://d.invalid/debian
suites: sid
components: main
enabled: no
"""
    suites = ("bookworm", "bookworm-updates")
    assert list(parse_deb822(text)) == [
        Source("http://a.invalid/debian", suites, ("main",), "/k/a.gpg"),
        Source("http://b.invalid/debian", suites, ("main",), "/k/a.gpg"),
    ]


def test_a_key_inside_the_file_is_kept_as_it_is() -> None:
    block = " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----"
    text = f"Types: deb\nURIs: http://a.invalid/debian\nSuites: sid\nComponents: main\nSigned-By:\n{block}\n"
    assert next(iter(parse_deb822(text))).signed_by == block


def test_main_and_security_are_told_by_their_suites(set_sources: SetSources) -> None:
    set_sources(
        "deb [signed-by=/k/s.gpg] http://s.invalid/security bookworm-security main\n"
        "deb [signed-by=/k/m.gpg] http://m.invalid/debian/ bookworm main\n"
        "deb http://third.invalid/apt nodistro main\n"
    )
    assert find_archives(BOTH) == {
        "main": Archive("http://m.invalid/debian", "/k/m.gpg"),
        "security": Archive("http://s.invalid/security", "/k/s.gpg"),
    }


def test_third_parties_with_debians_suites_are_passed_over(set_sources: SetSources) -> None:
    set_sources(
        "deb [signed-by=/k/t.gpg] http://third.invalid/stable/debian bookworm main\n"
        "deb [signed-by=/k/d.gpg] http://docker.invalid/debian bookworm stable\n"
        "deb [signed-by=/k/m.gpg] http://m.invalid/debian bookworm main\n"
        "deb [signed-by=/k/m.gpg] http://m.invalid/debian bookworm-updates main\n"
    )
    assert find_archives(BOTH)["main"].uri == "http://m.invalid/debian"


def test_deb822_files_in_parts_are_read(set_sources: SetSources) -> None:
    etc = set_sources("")
    parts = etc / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(
        "Types: deb\nURIs: http://m.invalid/debian\nSuites: trixie\nComponents: main\nSigned-By: /k/m.gpg\n"
    )
    (parts / "old.sources.save").write_text("deb http://no.invalid/debian bookworm main\n")
    assert find_archives(BOTH) == {"main": Archive("http://m.invalid/debian", "/k/m.gpg")}


def test_variables_replace_the_mirrors(set_sources: SetSources, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sources("deb [signed-by=/k/m.gpg trusted=yes] http://m.invalid/debian bookworm main\n")
    monkeypatch.setenv("VCAPDEV_MIRROR", "http://other.invalid/debian/")
    monkeypatch.setenv("VCAPDEV_SECURITY_MIRROR", "file:/srv/security")
    found = find_archives(BOTH)
    assert found["main"] == Archive("http://other.invalid/debian", "/k/m.gpg", trusted=False)
    assert found["security"].uri == "file:/srv/security"
    monkeypatch.setenv("VCAPDEV_KEYRING", "/k/mine.gpg")
    assert find_archives(BOTH)["main"].signed_by == "/k/mine.gpg"


def test_a_machine_without_debian_sources_is_told_what_to_set(set_sources: SetSources) -> None:
    set_sources("deb http://u.invalid/ubuntu noble main\n")
    with pytest.raises(SetupError, match=r"names no Debian main archive: set VCAPDEV_MIRROR"):
        find_archives(BOTH)


def test_proxies_are_taken_over_and_leniencies_are_not() -> None:
    config = parse_config(
        [
            "Acquire::http::Proxy http://proxy.invalid:3128/",
            "Acquire::https::CaInfo /etc/ssl/my%20ca.pem",
            "Acquire::AllowInsecureRepositories true",
            "Acquire::Check-Valid-Until false",
            "APT::Update::Post-Invoke:: /bin/true",
            "Dir::Etc /srv/etc",
        ]
    )
    assert config.transport == [
        'Acquire::http::Proxy "http://proxy.invalid:3128/";',
        'Acquire::https::CaInfo "/etc/ssl/my ca.pem";',
    ]
    assert config.source_list == Path("/srv/etc/sources.list")


def test_apt_itself_is_asked_where_its_sources_are(set_sources: SetSources) -> None:
    etc = set_sources("")
    config = read_config()
    assert config.source_list == etc / "sources.list"
    assert config.source_parts == etc / "sources.list.d"


def test_broken_apt_configuration_is_a_clear_line(set_sources: SetSources, tmp_path: Path) -> None:
    set_sources("")
    (tmp_path / "apt.conf").write_text("Dir::Etc {\nx")
    with pytest.raises(SetupError, match=r"apt configuration cannot be read: .*Syntax error") as caught:
        read_config()
    assert "\n" not in str(caught.value)
