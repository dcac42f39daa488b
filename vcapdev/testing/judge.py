# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test's guest and card have to say at its end: whether it failed for them, and the evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from vcapdev.errors import GuestError
from vcapdev.report.model import Verdict
from vcapdev.testing.dma import told
from vcapdev.testing.guest import Guest
from vcapdev.testing.states import State

_LOG_LINES = 200  # of a section; the newest
_TRACE_LINES = 60
_CONSOLE_LINES = 40


def shortfalls(guest: Guest) -> list[str]:
    """Why a test that went well otherwise failed all the same; empty when it did not.

    A complaint of the guest's kernel fails it, unless it is allowed or was expected. A finding of the checker
    does when the test has not looked at the findings itself, and neither expected nor allowed it.
    """
    allow, found = guest.config.allow, []
    try:
        guest.end()
    except GuestError as error:
        if guest.state is not State.CRASHED:
            found.append(f"the guest, at the test's end: {error}")
    found += [complaint.told for complaint in guest.complaints if not complaint.allowed(allow)]
    if guest.state is State.CRASHED and not found and not guest.death_expected:
        found.append(f"the guest died: {guest.why_dead}")
    verdicts = findings(guest)
    if verdicts and not guest.card.dma.looked:
        found.append(f"the card's DMA, which the test did not look at: {told(verdicts)}")
    return found


def findings(guest: Guest) -> list[Verdict]:
    """Findings of all cards that the test neither expected nor allows, also of those that have gone."""
    verdicts: list[Verdict] = []
    for card in guest.cards:
        with suppress(GuestError):
            if guest.state is State.SHELL and card.there:
                card.settle()
            verdicts += card.dma.unexpected
    return [verdict for verdict in verdicts if verdict.rule not in guest.config.allow]


def spoilt(guest: Guest) -> bool:
    """Whether no other test should be given this guest.

    After a complaint the kernel is another one (lockdep is off, WARN_ONCE is silent), and after a bad write
    nobody knows what was overwritten.
    """
    if guest.state is not State.SHELL or guest.has_complained or not guest.card.there:
        return True
    with suppress(GuestError):
        return any(card.dma.peek() for card in guest.cards)
    return True


def sections(guest: Guest) -> list[tuple[str, str]]:
    """What is attached to the report of a test that failed: titles and texts."""
    card = guest.card
    asked: list[tuple[str, Callable[[], str]]] = [
        ("guest kernel log", lambda: _last(guest.dmesg(), _LOG_LINES)),
        ("guest console", lambda: guest.console(_CONSOLE_LINES)),
        ("findings", lambda: "\n".join(one.splat for each in guest.cards for one in each.dma.peek())),
        ("register trace", lambda: "\n".join(card.access_log(_TRACE_LINES))),
        ("DMA log", lambda: "\n".join(card.dma.log[-_TRACE_LINES:])),
        ("card", lambda: _figures(guest)),
    ]
    found = []
    for title, ask in asked:
        try:
            text = ask()
        except GuestError as error:
            text = f"not to be had: {error}"
        if text.strip():
            found.append((title, text.rstrip()))
    return found


def _last(text: str, count: int) -> str:
    lines = text.splitlines()
    if len(lines) <= count:
        return text
    return "\n".join([f"({len(lines) - count} lines before)", *lines[-count:]])


def _figures(guest: Guest) -> str:
    stats = guest.card.stats()
    return "\n".join(f"{name}: {value}" for name, value in stats.items() if value)
