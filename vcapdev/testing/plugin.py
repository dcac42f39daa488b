# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin (entry point ``vcapdev``): fixtures ``guest`` and ``card``, and what makes a test fail.

Every worker of pytest-xdist is a session of its own with guests of its own; nothing is shared but the cache
of packages and images, which locks itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from vcapdev.errors import VcapdevError, ViolationError
from vcapdev.testing import marks

if TYPE_CHECKING:
    from vcapdev.testing.card import Card
    from vcapdev.testing.complaints import Complaint
    from vcapdev.testing.config import GuestConfig
    from vcapdev.testing.guest import Guest
    from vcapdev.testing.keeper import Keeper

_KEEPER = pytest.StashKey["Keeper"]()
_LEASED = pytest.StashKey["Guest"]()
_FAULT = "vcapdev_fault"
_PACKAGE = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the session; a test's own ``@vcapdev.guest`` wins."""
    group = parser.getgroup("vcapdev", "guests with a capture card")
    group.addoption("--vcapdev-kernel", metavar="NAME", help="image recipe of tests that name none")
    group.addoption("--vcapdev-guests", type=int, metavar="N", help="guests of a session that stay up (2)")
    group.addoption("--cold", action="store_true", help="boot each guest afresh, not from a snapshot")
    parser.addini("vcapdev_kernel", "image recipe of tests that name none")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """The hooks of :mod:`vcapdev.testing.hooks`."""
    from vcapdev.testing import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    config.addinivalue_line("markers", f"{marks.GUEST}(kernel, memory, swap, ...): @vcapdev.guest(...)")
    config.addinivalue_line("markers", f"{marks.EVERY_FAULT}(*names, points): @vcapdev.every_fault(...)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End all guests, whatever ended the session."""
    keeper = session.config.stash.get(_KEEPER, None)
    if keeper is not None:
        keeper.close()


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest with a card, as ``@vcapdev.guest(...)`` asks for it (docs/pytest.md)."""
    node = request.node
    leased = _lease(request.config, node)
    node.stash[_LEASED] = leased
    yield leased
    from vcapdev.testing.judge import spoilt

    del node.stash[_LEASED]
    keeper = _keeper(request.config)
    keeper.give_back(leased, trusted=not spoilt(leased))
    _fail_of("after the test was judged", keeper.strays())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """No test comes after the last one: what guests say behind its back is heard now."""
    result = yield
    keeper = item.config.stash.get(_KEEPER, None)
    if keeper is None:
        return result
    if nextitem is None:
        _fail_of("after the last test in it was judged", keeper.strays(heard=True))
    elif "guest" in getattr(nextitem, "fixturenames", ()):
        with suppress(VcapdevError, pytest.fail.Exception):  # a wish that cannot be is that test's trouble
            keeper.expect(wanted_by(nextitem))
    return result


def _fail_of(when: str, strays: Sequence[Complaint]) -> None:
    if strays:
        pytest.fail("\n\n".join(f"{when}: {replace(one, early=False).told}" for one in strays), pytrace=False)


@pytest.fixture
def card(guest: Guest) -> Card:
    """The card of the test's guest."""
    return guest.card


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test below ``@vcapdev.every_fault`` becomes one for each fault."""
    mark = metafunc.definition.get_closest_marker(marks.EVERY_FAULT)
    if mark is None:
        return
    from vcapdev.testing.faults import check_names

    try:
        names = check_names(mark.args, "@vcapdev.every_fault")
    except VcapdevError as error:
        pytest.fail(str(error), pytrace=False)
    metafunc.fixturenames.append(_FAULT)
    metafunc.parametrize(_FAULT, names, indirect=True)


@pytest.fixture
def vcapdev_fault(request: pytest.FixtureRequest) -> str:
    """The fault that a test below ``@vcapdev.every_fault`` is run with."""
    return str(getattr(request, "param", ""))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run such a test at every point of its fault."""
    mark = pyfuncitem.get_closest_marker(marks.EVERY_FAULT)
    if mark is None:
        return None
    guest = pyfuncitem.stash.get(_LEASED, None)
    if guest is None:
        pytest.fail("@vcapdev.every_fault: the test has neither the fixture guest nor card", pytrace=False)
    from vcapdev.testing.sweep import Sweep

    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    fault = str(pyfuncitem.callspec.params[_FAULT])
    sweep = Sweep(guest, fault, lambda: pyfuncitem.obj(**arguments), lasts=mark.kwargs.get("lasts"))
    count = sweep.run(mark.kwargs.get("points"))
    pyfuncitem.user_properties.append((f"points of {fault}", count))
    if not count:
        said = f"{fault}: no point of it came while the test ran"
        pytest.fail(said, pytrace=False) if mark.args else pytest.skip(said)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge guest and card while the test is still running, so that it is the test that fails."""
    guest = item.stash.get(_LEASED, None)
    if guest is None:
        return (yield)
    from vcapdev.testing.judge import shortfalls

    try:
        result = yield
        found = shortfalls(guest)
        if found:
            pytest.fail("\n\n".join(found), pytrace=False)
        return result
    except Exception as error:
        guest.late()  # is in the report of the failure
        _attach(item, guest)
        if not item.config.getoption("fulltrace"):
            cut(error)
        raise
    except pytest.fail.Exception:
        guest.late()
        _attach(item, guest)
        raise


def _attach(item: pytest.Item, guest: Guest) -> None:
    from vcapdev.testing.judge import sections

    for title, text in sections(guest):
        item.add_report_section("call", title, text)


def cut(error: BaseException) -> None:
    """End the traceback of an error of ours at the test's own line: what is below tells its author little."""
    if not isinstance(error, VcapdevError | ViolationError):
        return
    last: TracebackType | None = None
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if _PACKAGE not in file.parents and file.name != "contextlib.py":
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None
        error.__cause__ = None
        error.__suppress_context__ = True


def _keeper(config: pytest.Config) -> Keeper:
    keeper = config.stash.get(_KEEPER, None)
    if keeper is None:
        from vcapdev.testing.guest import Guest
        from vcapdev.testing.keeper import MOST, Keeper
        from vcapdev.testing.opening import open_pair
        from vcapdev.testing.told import Told

        opener = config.hook.pytest_vcapdev_opener(config=config) or open_pair

        progress = Told(config)

        def make(wanted: GuestConfig) -> Guest:
            return Guest(wanted, opener=opener, progress=progress)

        keeper = config.stash[_KEEPER] = Keeper(make, config.getoption("vcapdev_guests") or MOST)
    return keeper


def _lease(config: pytest.Config, node: Any) -> Guest:
    """A guest for a test; what keeps it from having one is told in one line."""
    try:
        return _keeper(config).lease(wanted_by(node), node.name)
    except VcapdevError as error:
        if config.getoption("verbose") > 1:
            raise
        pytest.fail("\n".join([str(error), *getattr(error, "__notes__", ())]), pytrace=False)


def wanted_by(node: pytest.Item) -> GuestConfig:
    """What a test asks for: the session's defaults, then its module's, its class's and its own marks.

    :raise UsageError: an unknown key, or a value that cannot be.
    """
    from vcapdev.testing.config import config_from

    options: dict[str, Any] = {"cold": bool(node.config.getoption("cold"))}
    kernel = node.config.getoption("vcapdev_kernel") or node.config.getini("vcapdev_kernel")
    if kernel:
        options["kernel"] = kernel
    for mark in reversed(list(node.iter_markers(marks.GUEST))):
        options |= mark.kwargs
        if mark.args:
            pytest.fail(f"@vcapdev.guest takes keywords only, not {mark.args[0]!r}", pytrace=False)
    return config_from(options)
