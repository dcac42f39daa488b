# SPDX-License-Identifier: GPL-2.0-or-later
"""Which Debian mirror and keyring this machine uses, read from its own apt configuration.

Both formats of sources.list(5) are read: one-line ``.list`` and deb822 ``.sources``. A source is taken for a
Debian archive by its suites (bookworm, trixie-backports, ...) and its component main; ``*-security`` makes it
the security archive. Nothing here knows a host.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image.recipe import Suite

_RELEASE = "(buster|bullseye|bookworm|trixie|forky|duke|sid|(old)*stable|testing|unstable)"
_MAIN = re.compile(rf"{_RELEASE}(-updates|-backports|-backports-sloppy|-proposed-updates)?\Z")
_SECURITY = re.compile(rf"{_RELEASE}(-security|/updates)\Z")
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Source:
    """One source of packages: a URI with what may be read from it and who signs it.

    ``signed_by`` is apt's own value: file names or fingerprints, or an armoured key block; "" is its default.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


@dataclass(frozen=True)
class Archive:
    """A Debian archive as apt shall use it."""

    uri: str
    signed_by: str
    trusted: bool = False


@dataclass
class AptConfig:
    """The parts of the machine's apt configuration that count here."""

    source_list: Path = Path("/etc/apt/sources.list")
    source_parts: Path = Path("/etc/apt/sources.list.d")
    architecture: str = "amd64"
    transport: list[str] = field(default_factory=list)  # proxies and the like, as lines of apt.conf(5)


def read_config() -> AptConfig:
    """Ask apt-config; ``APT_CONFIG`` in the environment counts as it does for apt itself.

    :raise SetupError: when this machine has no apt, or its configuration is broken.
    """
    try:
        result = subprocess.run(
            ["apt-config", "dump", "--format", "%f %V%n"],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise SetupError("this machine has no apt-config: vcapdev needs Debian's apt package") from error
    except subprocess.CalledProcessError as error:
        first = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise SetupError(f"the machine's apt configuration cannot be read: {first}") from error
    return parse_config(result.stdout.splitlines())


_TRANSPORT = re.compile(
    r"Acquire::(https?|ftp|tor|mirror|ForceIPv[46]|AllowRedirect|Send-URI-Encoded)\b", re.I
)


def parse_config(lines: Iterable[str]) -> AptConfig:
    """Read ``name value`` lines, %-escaped values, as apt-config dumps them."""
    values: dict[str, str] = {}
    config = AptConfig()
    for line in lines:
        name, _, raw = line.partition(" ")
        value = re.sub(r"%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), raw)
        values[name.lower()] = value
        if _TRANSPORT.match(name) and value and '"' not in value:
            config.transport.append(f'{name} "{value}";')
    etc = os.path.join(values.get("dir", "/"), values.get("dir::etc", "etc/apt"))
    config.source_list = Path(etc, values.get("dir::etc::sourcelist", "sources.list"))
    config.source_parts = Path(etc, values.get("dir::etc::sourceparts", "sources.list.d"))
    config.architecture = values.get("apt::architecture", "amd64")
    return config


def read_sources(config: AptConfig) -> list[Source]:
    """All enabled binary sources of the machine, in apt's order; unreadable files are passed over."""
    files = [config.source_list]
    if config.source_parts.is_dir():
        files += sorted(config.source_parts.glob("*.list")) + sorted(config.source_parts.glob("*.sources"))
    found: list[Source] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text)
    return found


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources of a ``.list`` file: ``deb [options] uri suite components...``."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(.+)", line.partition("#")[0])
        words = match[2].split() if match else []
        if match is None or len(words) < 3:
            continue  # comments, deb-src, flat repositories
        options = dict(option.partition("=")[::2] for option in shlex.split(match[1] or ""))
        yield Source(
            words[0],
            (words[1],),
            tuple(words[2:]),
            options.get("signed-by", ""),
            options.get("trusted", "no") in _YES,
        )


_YES = ("yes", "true", "with", "on", "enable", "1")


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a ``.sources`` file: stanzas of ``Types``, ``URIs``, ``Suites``, ``Components``, ..."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() not in _YES:
            continue
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
                fields.get("trusted", "no").lower() in _YES,
            )


def _fields(stanza: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.rstrip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return {name: value.strip("\n") for name, value in fields.items()}


def find_archives(suites: Iterable[Suite], config: AptConfig | None = None) -> dict[str, Archive]:
    """The archives that ``suites`` need, by name ("main", "security").

    ``VCAPDEV_MIRROR`` and ``VCAPDEV_SECURITY_MIRROR`` replace the machine's URIs and ``VCAPDEV_KEYRING`` its
    keys. A security archive that nothing names is left out when its suites are optional.

    :raise SetupError: when the machine's configuration names no Debian archive.
    """
    suites = list(suites)
    sources = read_sources(config or read_config())
    found: dict[str, Archive] = {}
    for name, variable in (("main", "VCAPDEV_MIRROR"), ("security", "VCAPDEV_SECURITY_MIRROR")):
        wanted = [suite for suite in suites if suite.archive == name]
        archive = _choose(name, sources, os.environ.get(variable, ""))
        if archive is not None:
            found[name] = archive
        elif not all(suite.optional for suite in wanted):
            raise SetupError(
                f"apt's configuration on this machine names no Debian {name} archive: set {variable} to the "
                "URL of a Debian mirror (and install the package debian-archive-keyring)"
            )
    return found


def _choose(name: str, sources: list[Source], override: str) -> Archive | None:
    pattern = _MAIN if name == "main" else _SECURITY
    debian = [source for source in sources if _is_debian(source, pattern)]
    best = max(debian, key=lambda source: _likeness(source, debian), default=None)
    keyring = os.environ.get("VCAPDEV_KEYRING")
    signed_by = keyring or _keys(best.signed_by if best else "", best is None)
    if override:
        uri = override if ":" in override else Path(override).expanduser().absolute().as_uri()
        trusted = best is not None and best.trusted and best.uri.rstrip("/") == uri.rstrip("/")
        return Archive(uri.rstrip("/"), signed_by, trusted)
    return Archive(best.uri.rstrip("/"), signed_by, best.trusted) if best else None


def _is_debian(source: Source, pattern: re.Pattern[str]) -> bool:
    return "main" in source.components and any(pattern.match(suite) for suite in source.suites)


def _likeness(source: Source, others: list[Source]) -> int:
    """Third parties also publish a "bookworm main": Debian's own is signed by, or laid out like, Debian's."""
    mates = {suite for other in others if other.uri == source.uri for suite in other.suites}
    return (
        4 * ("debian-archive" in source.signed_by)
        + 2 * any("-" in suite for suite in mates)
        + bool(re.search(r"://[^/]+/debian(-security)?/?\Z", source.uri))
    )


def _keys(signed_by: str, foreign: bool) -> str:
    """Add the whole archive keyring where the machine trusts a part of it: recipes span releases."""
    if signed_by and "/debian-archive-" not in signed_by:
        return signed_by
    if not signed_by and not foreign:
        return ""  # apt's default: trusted.gpg.d
    ring = next((f"/usr/share/keyrings/{name}" for name in _KEYRINGS if _exists(name)), "")
    return ring or signed_by


def _exists(name: str) -> bool:
    return Path("/usr/share/keyrings", name).is_file()
