# SPDX-License-Identifier: GPL-2.0-or-later
"""Exchange the capture driver's modules in a running guest.

The modules that a variant replaces are unloaded together with all that use them (``/proc/modules`` says
who), and loaded again in the order of the image's ``/etc/modules``, with the variant's files in their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import GuestError
from vcapdev.image.modules import canonical, read_image
from vcapdev.vm.agent import Agent

DRIVER = "bttv"
#: What :attr:`Drivers.current` is where somebody has loaded a module of his own.
BY_HAND = "(by hand)"
_DIRECTORY = "/tmp/vcap-modules"
_TIMEOUT = 60.0  # seconds for one insmod or rmmod


class DriverError(GuestError):
    """A module cannot be loaded or unloaded."""


@dataclass(frozen=True)
class Listed:
    """A line of /etc/modules: the module's name, its path, and its parameters."""

    name: str
    path: str
    parameters: str


def parse_listed(text: str, release: str) -> list[Listed]:
    """Read /etc/modules, which is in load order (guest/init)."""
    found = []
    for line in text.splitlines():
        path, _, parameters = line.strip().partition(" ")
        if path and not path.startswith("#"):
            full = path if path.startswith("/") else f"/lib/modules/{release}/{path}"
            name = Path(path).name.removesuffix(".ko")
            found.append(Listed(canonical(name), full, parameters.strip()))
    return found


def parse_users(text: str) -> dict[str, list[str]]:
    """Read /proc/modules: loaded modules, each with those that use it."""
    users: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4:
            listed = words[3].strip(",").split(",") if words[3] != "-" else []
            users[words[0]] = [name for name in listed if name.isidentifier()]
    return users


def with_users(names: list[str], users: Mapping[str, list[str]]) -> list[str]:
    """Of ``names`` those that are loaded, and all that use them, users first."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in users and name not in order:
            for user in users[name]:
                visit(user)
            order.append(name)

    for name in names:
        visit(name)
    return order


def _precedes(name: str, other: str, files: Mapping[str, Path]) -> bool:
    order = list(files)
    return order.index(name) < order.index(other)


class Drivers:
    """What is loaded in one boot of a guest."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        release = str((agent.hello or {}).get("release", ""))
        self._listed = parse_listed(agent.pull("/etc/modules").decode("utf-8", "replace"), release)
        self._missing: list[Listed] = []  # unloaded, to be loaded again
        self._altered: list[str] = []  # modules that are loaded in the place of the stock ones
        self.current: str | None = None  # name of the variant that is loaded

    def unload(self, names: Mapping[str, Path] | None = None) -> None:
        """Unload the driver, the modules that are to be replaced, and those of the variant before.

        :raise DriverError: the guest cannot.
        """
        wanted = [*map(canonical, names or {}), *self._altered, DRIVER]
        users = parse_users(self._agent.pull("/proc/modules").decode("ascii", "replace"))
        for name in with_users(wanted, users):
            self._command("rmmod", name)
            self._missing += [one for one in self._listed if one.name == name]

    def load(self, variant: str | None, modules: Mapping[str, Path], parameters: Mapping[str, str]) -> None:
        """Load what was unloaded, with ``modules`` (name: file) in the place of the stock ones.

        Those that are no stock module's are loaded as well, in their order.

        :raise DriverError: the guest cannot.
        """
        files = {canonical(name): path for name, path in modules.items()}
        given = {canonical(name): text for name, text in parameters.items()}
        missing = [one for one in self._listed if one in self._missing]
        extra = [name for name in files if name not in {one.name for one in self._listed}]
        for one in missing:
            while extra and one.name in files and _precedes(extra[0], one.name, files):
                self._insert(extra.pop(0), files, given)
            if one.name in files:
                self._insert(one.name, files, given, one.parameters)
            else:
                self._command("insmod", one.path, *f"{one.parameters} {given.get(one.name, '')}".split())
        for name in extra:
            self._insert(name, files, given)
        self._missing.clear()
        self._altered = list(files)
        self.current = variant

    def _insert(
        self, name: str, files: Mapping[str, Path], given: Mapping[str, str], usual: str = ""
    ) -> None:
        self._command("insmod", self._push(name, files[name]), *f"{usual} {given.get(name, '')}".split())

    @property
    def loaded(self) -> bool:
        """Whether nothing is missing."""
        return not self._missing

    # -- by hand, one at a time; the next unload() and load() put everything right again

    def unload_one(self, name: str) -> None:
        """Unload one module, and all that use it before.

        :raise DriverError: the guest cannot, or it is not loaded.
        """
        users = parse_users(self._agent.pull("/proc/modules").decode("ascii", "replace"))
        if canonical(name) not in users:
            raise DriverError(f"the module {name} is not loaded in the guest")
        for each in with_users([canonical(name)], users):
            self._command("rmmod", each)
            self._missing += [one for one in self._listed if one.name == each]

    def load_one(self, name: str, words: Sequence[str] = ()) -> None:
        """Load one module of the image that was unloaded, and those that were unloaded with it before it.

        :raise DriverError: the guest cannot, it is loaded already, or the image has none of that name.
        """
        if canonical(name) not in [one.name for one in self._listed]:
            raise DriverError(f"the guest's image has no module {name}; push it: load(Path('{name}.ko'))")
        if canonical(name) not in [one.name for one in self._missing]:
            raise DriverError(f"the module {name} is loaded already")
        for one in [one for one in self._listed if one in self._missing]:
            wanted = one.name == canonical(name)
            self._command("insmod", one.path, *one.parameters.split(), *(words if wanted else ()))
            self._missing.remove(one)
            if wanted:
                break
        if words:
            self.current = BY_HAND

    def insert(self, name: str, path: str, words: Sequence[str] = ()) -> None:
        """Load the module in a file of the guest's.

        :raise DriverError: the guest cannot.
        """
        self._command("insmod", path, *words)
        self._missing = [one for one in self._missing if one.name != canonical(name)]
        self._altered.append(canonical(name))
        self.current = BY_HAND

    def _push(self, name: str, path: Path) -> str:
        remote = f"{_DIRECTORY}/{name}.ko"
        self._agent.run(["mkdir", "-p", _DIRECTORY])
        self._agent.push(read_image(path), remote)
        return remote

    def _command(self, *words: str) -> None:
        result = self._agent.run(list(words), timeout=_TIMEOUT)
        if result.status:
            raise DriverError(f"{' '.join(words)} in the guest: {result.stderr.strip() or result.status}")
