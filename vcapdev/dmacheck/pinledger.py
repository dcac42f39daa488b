# SPDX-License-Identifier: GPL-2.0-or-later
"""The pin ledger: for each buffer when it was pinned and how often, when released, and whether dirty then.

An account is opened for the pages of a program that nobody watched yet, and closed when the last of them has
been seen released. At the end the balance is drawn against the kernel's own counters (mm/gup.c).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, Pfns
from vcapdev.guestmm.vmstat import PinCounters, counter_slack, read_pin_counters

_KEPT = 64  # closed accounts that are told one by one
_MAX_OPEN = 4096


@dataclass
class Account:
    """One buffer's pins. Fields are counted by the device; -1 means not yet.

    ``pins`` are those of all its pages at first sight, ``most`` the most that one page was seen with.
    ``dirty`` of the ``released`` pages were dirty at the first look after the release; ``late`` were cleaned,
    freed or somebody else's by then.
    """

    number: int
    program: int
    pfn: int
    pages: int
    pins: int
    most: int
    pinned_field: int
    buffer: str = ""
    released: int = 0
    dirty: int = 0
    late: int = 0
    first_release_field: int = -1
    last_release_field: int = -1

    @property
    def closed(self) -> bool:
        """Whether all pages were seen released."""
        return self.released >= self.pages


@dataclass(frozen=True)
class Balance:
    """What the kernel's counters say, against what is left by our own account; pins, not pages.

    ``slack`` is how far the counters may be off: 0 when two readings agreed, for they are read with every
    CPU's share. ``vmstat_slack`` is how far /proc/vmstat may be, which leaves these shares out.
    """

    outstanding: int
    outstanding_at_attach: int
    left: int
    unaccounted: int
    slack: int
    vmstat_slack: int

    @property
    def agrees(self) -> bool:
        """Whether nobody but our buffers holds a pin, within the slack."""
        return abs(self.unaccounted) <= self.slack


@dataclass
class PinLedger:
    """All accounts. ``when`` gives the number of the field under way."""

    kernel: Kernel
    when: Callable[[], int]
    opened: int = 0
    closed: int = 0
    taken: int = 0  # pins at first sight, of all accounts
    balance: Balance | None = None
    _open: dict[int, Account] = field(default_factory=dict)
    _done: deque[Account] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _number: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))

    def __post_init__(self) -> None:
        self._number = np.zeros(self.kernel.vmemmap.pages, dtype=np.int32)  # of the account, by page frame

    @classmethod
    def after(cls, kernel: Kernel, when: Callable[[], int], former: PinLedger | None) -> PinLedger:
        """A new one that goes on counting where a former stands; what was open then is told as it stands."""
        ledger = cls(kernel, when)
        if former is not None:
            ledger.opened, ledger.closed, ledger.taken = former.opened, former.closed, former.taken
            ledger._done.extend([*former._done, *former._open.values()])
        return ledger

    def pinned(self, facts: PageFacts, rows: NDArray[np.intp], program: int) -> None:
        """These rows are pages that are watched from now on."""
        if not len(rows):
            return
        if len(self._open) >= _MAX_OPEN:
            self._done.append(self._open.pop(next(iter(self._open))))
        self.opened += 1
        pins, most = self._counted(facts, rows)
        first = int(facts.pfn[rows[0]])
        account = Account(self.opened, program, first, len(rows), pins, most, self.when())
        self.taken += pins
        self._open[account.number] = account
        self._number[facts.pfn[rows]] = account.number

    def _counted(self, facts: PageFacts, rows: NDArray[np.intp]) -> tuple[int, int]:
        """The pins on these pages, and the most on one."""
        if len(rows) < len(facts.pfn):
            return pins_of(facts, rows), int(facts.pins[rows].max())
        return facts.once("counted", lambda: (pins_of(facts, rows), int(facts.pins.max())))

    def again(self, facts: PageFacts) -> None:
        """Pages that are watched already were seen with another program; they may have more pins now."""
        account = self._of(int(facts.pfn[0])) if len(facts.pfn) else None
        if account is not None:
            account.most = max(account.most, facts.once("most pins", lambda: int(facts.pins.max())))

    def name(self, pfn: int, buffer: str) -> None:
        """The media framework's name for the buffer that has this page."""
        account = self._of(pfn)
        if account is not None and not account.buffer:
            account.buffer = buffer

    def is_named(self, pfn: int) -> bool:
        """Whether a media framework has listed the buffer that has this page."""
        account = self._of(pfn)
        return account is not None and bool(account.buffer)

    def released(self, pfns: Pfns, dirty: Bools, late: Bools) -> None:
        """These pages were seen released."""
        numbers, now = self._number[pfns], self.when()
        if not len(numbers):
            return
        first = int(numbers[0])
        for number in [first] if (numbers == first).all() else np.unique(numbers).tolist():
            account, rows = self._open.get(number), numbers == number
            if account is None:
                continue
            account.released += int(np.count_nonzero(rows))
            account.dirty += int(np.count_nonzero(rows & dirty))
            account.late += int(np.count_nonzero(rows & late))
            if account.first_release_field < 0:
                account.first_release_field = now
            account.last_release_field = now
            if account.closed:
                self.closed += 1
                self._done.append(self._open.pop(number))
        self._number[pfns] = 0

    def draw(self, left: int, at_attach: PinCounters | None) -> None:
        """Draw the balance: ``left`` pins are on pages that we watch."""
        first = read_pin_counters(self.kernel)
        second = read_pin_counters(self.kernel)
        if first is None or second is None or at_attach is None:
            self.balance = None
            return
        slack = abs(second.outstanding - first.outstanding)
        self.balance = Balance(
            outstanding=second.outstanding,
            outstanding_at_attach=at_attach.outstanding,
            left=left,
            unaccounted=second.outstanding - left,
            slack=slack,
            vmstat_slack=counter_slack(self.kernel),
        )

    def status(self) -> dict[str, Any]:
        """Plain values: totals, the accounts of late, and the balance that was drawn last."""
        accounts = [*self._done, *self._open.values()][-_KEPT:]
        balance = None
        if self.balance is not None:
            balance = {**asdict(self.balance), "agrees": self.balance.agrees}
        return {
            "opened": self.opened,
            "closed": self.closed,
            "pins_seen": self.taken,
            "buffers": [asdict(account) for account in accounts],
            "balance": balance,
        }

    def _of(self, pfn: int) -> Account | None:
        """The open account of a page."""
        return self._open.get(int(self._number[pfn])) if 0 <= pfn < len(self._number) else None


def pins_of(facts: PageFacts, rows: NDArray[np.intp]) -> int:
    """The pins on these pages; those of a compound page are counted once."""
    large = facts.large[rows]
    total = int(facts.pins[rows[~large]].sum(dtype=np.int64))
    if large.any():
        some = rows[large]
        heads = np.stack([facts.mapping[some], facts.index[some]], axis=1)
        _, first = np.unique(heads, axis=0, return_index=True)
        total += int(facts.pins[some[first]].sum(dtype=np.int64))
    return total
