# SPDX-License-Identifier: GPL-2.0-or-later
"""A private apt root in the cache: signed indexes, resolution and package addresses, without root.

apt does what it is good at: it verifies the signed Release files, resolves dependencies, knows the addresses
and checksums. Of the machine's configuration only proxies and the like are taken over; hooks, preferences and
leniencies are not. Files of packages are fetched by :mod:`vcapdev.image.download`.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from vcapdev.errors import SetupError
from vcapdev.image.apttool import explain, run_tool, unresolvable
from vcapdev.image.archives import AptConfig, Archive
from vcapdev.image.cache import Cache, digest, disk_errors
from vcapdev.image.lock import Package
from vcapdev.image.recipe import Suite
from vcapdev.progress import Progress

_CONF = """\
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources";
Dir::Etc::preferences "{root}/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{root}/state";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/archives";
Dir::Cache::srcpkgcache "";
Dir::Log "{root}/log";
Debug::NoLocking "true";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Update::Error-Mode "any";
APT::Sandbox::User "{user}";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Check-Valid-Until "true";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
{transport}
"""


Plan = list[tuple[str, str]]  # (name, version)


@dataclass(frozen=True)
class Address:
    """Where the file of a package is: URI and size in bytes; its checksum is the package's."""

    package: Package
    uri: str


class AptRoot:
    """One private apt root for a set of suites; callers hold its lock :attr:`lock_name` around every use."""

    def __init__(
        self,
        cache: Cache,
        suites: Sequence[Suite],
        archives: Mapping[str, Archive],
        config: AptConfig,
        *,
        assume: Sequence[str] = (),
        allow_expired: bool = False,
    ) -> None:
        self.suites = [suite for suite in suites if suite.archive in archives]
        self.archives = archives
        self.notes = [
            f"no source for suite {suite.name}: packages may be older than Debian's latest"
            for suite in suites
            if suite.archive not in archives
        ]
        self._assume, self._allow_expired, self._config = assume, allow_expired, config
        key = digest(repr((suites, sorted(archives.items()), assume, allow_expired, config.architecture)))[
            :24
        ]
        self.lock_name = f"apt-{key}"
        self._cache_root = cache.root
        self.root = cache.path("apt", key, "apt.conf").parent

    @property
    def environment(self) -> dict[str, str]:
        """The environment that makes apt's tools use this root."""
        keep = {
            name: value for name, value in os.environ.items() if not name.startswith(("APT_", "LC_", "LANG"))
        }
        return keep | {
            "APT_CONFIG": str(self.root / "apt.conf"),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }

    def configure(self, excluded: Iterable[tuple[str, str]] = ()) -> None:
        """Write the root's configuration; ``excluded`` (name, version) are never chosen."""
        with disk_errors(self._cache_root):
            for name in ("lists/partial", "archives/partial", "cache", "state", "sources", "log"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            user = "root" if os.geteuid() == 0 else ""  # _apt could not enter a private cache
            (self.root / "apt.conf").write_text(
                _CONF.format(
                    root=self.root,
                    architecture=self._config.architecture,
                    user=user,
                    transport="\n".join(self._config.transport),
                )
            )
            (self.root / "sources" / "debian.sources").write_text(self._sources())
            (self.root / "status").write_text("".join(map(self._assumed, self._assume)))
            (self.root / "preferences").write_text("\n".join(f"{_pin(*pair)}" for pair in sorted(excluded)))

    def _sources(self) -> str:
        stanzas = []
        for suite in self.suites:
            archive = self.archives[suite.archive]
            lines = [
                "Types: deb",
                f"URIs: {archive.uri}",
                f"Suites: {suite.name}",
                f"Components: {' '.join(suite.components)}",
            ]
            if archive.signed_by:
                gap = "\n" if archive.signed_by.startswith(" ") else " "  # an armoured block is indented
                lines.append(f"Signed-By:{gap}{archive.signed_by}")
            if archive.trusted:
                lines.append("Trusted: yes")
            if self._allow_expired:
                lines.append("Check-Valid-Until: no")
            stanzas.append("\n".join(lines) + "\n")
        return "\n".join(stanzas)

    def _assumed(self, name: str) -> str:
        return (
            f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
            f"Maintainer: nobody <nobody@localhost>\nArchitecture: {self._config.architecture}\n"
            "Multi-Arch: foreign\nVersion: 999999\nDescription: not needed in an unpacked tree\n\n"
        )

    @property
    def has_indexes(self) -> bool:
        """Whether a complete update was made once."""
        return (self.root / "updated").is_file()

    def update(self, progress: Progress) -> None:
        """Fetch the indexes of all suites, verified by apt. Optional suites that do not exist are dropped.

        :raise SetupError: no network, bad signature, expired Release, full disk, ...: one line.
        """
        progress.start("Reading package indexes", None)
        self.configure()
        while True:
            result = self._run(
                "apt-get", "-q", "update", poll=lambda: progress.advance(_tree_length(self.root / "lists"))
            )
            if result.returncode == 0:
                break
            gone = self._missing_suite(result.stderr)
            if gone is None:
                # Where there is no route, only apt's standard output says so.
                raise explain(result.stderr + result.stdout, self._cache_root, "the package indexes")
            self.suites.remove(gone)
            self.notes.append(
                f"the mirror has no suite {gone.name}: packages may be older than Debian's latest"
            )
            self.configure()
        (self.root / "cache" / "pkgcache.bin").unlink(missing_ok=True)
        (self.root / "updated").write_text("")
        progress.finish(f"{', '.join(suite.name for suite in self.suites)}")

    def _missing_suite(self, stderr: str) -> Suite | None:
        for name in re.findall(r"The repository '\S+ (\S+) \w*Release' does not have a Release file", stderr):
            for suite in self.suites:
                if suite.name == name and suite.optional:
                    return suite
        return None

    def ages(self, now: float | None = None) -> list[str]:
        """One warning for each suite whose Release file is past its Valid-Until, with its age in days."""
        now = time.time() if now is None else now
        warnings = []
        for file in sorted((self.root / "lists").glob("*Release")):
            head = file.read_text(encoding="utf-8", errors="replace")[:4000]
            fields = dict(re.findall(r"^(Suite|Codename|Date|Valid-Until): (.+)$", head, re.M))
            until = _seconds(fields.get("Valid-Until"))
            if until is not None and until < now:
                days = (now - (_seconds(fields.get("Date")) or until)) / 86400
                name = file.name.rpartition("_dists_")[2].rpartition("_")[0].replace("_", "/")
                warnings.append(
                    f"the mirror's Release file of {name} is {days:.0f} days old and past its date "
                    "(signature verified): newer packages may exist"
                )
        return warnings

    def resolve(self, names: Sequence[str], prefer: str | None, excluded: Iterable[tuple[str, str]]) -> Plan:
        """What unpacking ``names`` takes, dependencies included, as (name, version).

        :raise UnresolvableError: when there is no such set of packages.
        """
        self.configure(excluded)
        target = ["-t", prefer] if prefer else []
        result = self._run("apt-get", "-s", "-q", *target, "install", *names)
        if result.returncode != 0:
            raise unresolvable(result.stdout + result.stderr, names, self._cache_root)
        return re.findall(r"^Inst (\S+) \((\S+) ", result.stdout, re.M)

    def locate(self, plan: Plan) -> list[Address]:
        """Address, size, checksum and suite of each package of ``plan``, in its order.

        :raise SetupError: when the indexes do not have a version.
        """
        if not plan:
            return []
        names = [f"{name}={version}" for name, version in plan]
        result = self._run("apt-get", "-q", "download", "--print-uris", *names)
        if result.returncode != 0:
            raise unresolvable(result.stdout + result.stderr, names, self._cache_root)
        suites = self._suites_of([name for name, _ in plan])
        lines = re.findall(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})", result.stdout, re.M)
        found = [self._address(uri, file, int(size), sha256, suites) for uri, file, size, sha256 in lines]
        by_name = {(item.package.name, item.package.version): item for item in found}
        missing = set(plan) - set(by_name)
        if missing:
            raise SetupError(f"the package indexes give no SHA-256 for {_list(missing)}: use another mirror")
        return [by_name[pair] for pair in plan]

    def _address(
        self, uri: str, file: str, size: int, sha256: str, suites: Mapping[tuple[str, str], str]
    ) -> Address:
        name, version, architecture = unquote(file).removesuffix(".deb").split("_")
        suite = suites.get((name, version), "")
        archive = next((item.archive for item in self.suites if item.name == suite), "main")
        base = self.archives[archive].uri if archive in self.archives else ""
        if base and uri.startswith(base):
            path = unquote(uri.removeprefix(base)).lstrip("/")
        else:  # apt writes the URI in another way (file:///, credentials)
            path = "pool/" + unquote(uri.partition("/pool/")[2])
        return Address(Package(name, version, sha256, suite, size, architecture, archive, path), uri)

    def _suites_of(self, names: Sequence[str]) -> dict[tuple[str, str], str]:
        """(name, version) -> suite; of several the first one in the order of the recipe."""
        result = self._run("apt-cache", "madison", *names)
        order = {suite.name: rank for rank, suite in enumerate(self.suites)}
        found: dict[tuple[str, str], str] = {}
        for line in result.stdout.splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) != 3 or not fields[2].endswith(" Packages"):
                continue
            suite = fields[2].split()[1].rpartition("/")[0]
            known = found.get((fields[0], fields[1]))
            if known is None or order.get(suite, 99) < order.get(known, 99):
                found[fields[0], fields[1]] = suite
        return found

    def versions(self, name: str) -> list[str]:
        """All versions of a package in the indexes, newest first."""
        result = self._run("apt-cache", "madison", name)
        rows = [line.split("|") for line in result.stdout.splitlines()]
        return list(dict.fromkeys(row[1].strip() for row in rows if len(row) == 3 and row[0].strip() == name))

    def matching(self, pattern: str) -> list[str]:
        """Packages whose names match, with "*" for digits and dots; the highest numbers first."""
        head, _, tail = pattern.partition("*")
        shape = re.compile(rf"{re.escape(head)}(\d+(?:\.\d+)*){re.escape(tail)}\Z")
        names = self._run("apt-cache", "pkgnames", head).stdout.split()
        numbers = {name: match[1] for name in names if (match := shape.match(name))}
        return sorted(
            numbers, key=lambda name: [int(part) for part in numbers[name].split(".")], reverse=True
        )

    def dependents(self, plan: Plan, name: str) -> Plan:
        """Those packages of ``plan`` that depend on ``name`` directly."""
        stanzas = self._run(
            "apt-cache", "show", "--", *(f"{item}={version}" for item, version in plan)
        ).stdout
        found = []
        for stanza in re.split(r"\n\n+", stanzas):
            fields = dict(re.findall(r"^(Package|Version|Depends|Pre-Depends): (.+)$", stanza, re.M))
            depends = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
            if name in re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", depends):
                found.append((fields["Package"], fields["Version"]))
        return found

    def _run(self, *argv: str, poll: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        with disk_errors(self._cache_root):
            return run_tool(argv, self.environment, self.root, poll)


def _tree_length(top: Path) -> int:
    """Bytes in the files below ``top``, some of which come and go."""
    total = 0
    for directory, _, files in os.walk(top):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def _pin(name: str, version: str) -> str:
    return f"Package: {name}\nPin: version {version}\nPin-Priority: -1\n"


def _seconds(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(pairs))
