# SPDX-License-Identifier: GPL-2.0-or-later
"""Judging judgements: a random sample is judged again with the vCPUs stopped, where nothing can move.

Rules called certain are held to that. What the live look called bad and the standing world calls clean, or
the other way round, without the page having changed between the two, is a disagreement: a defect of the
checker.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.rules import PAGE_RULES, Codes, Setting, judge
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet
from vcapdev.guestmm.pageview import view_page

_MAX_SHOWN = 8  # disagreements that are told in full; further ones are counted


class Audit:
    """Draws the sample and keeps its figures.

    :param rate: share of judgements that are audited, 0 to 1. A judgement is that of all pages of one batch.
    :param seed: of the generator that draws them.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self._random = random.Random(seed)
        self._counts: Counter[str] = Counter()
        self._shown: list[str] = []

    def afresh(self) -> Audit:
        """One without figures, that goes on drawing where this one stands."""
        other = Audit(self.rate, self.seed)
        other._random = self._random
        return other

    def drawn(self) -> bool:
        """Whether the judgement at hand is of the sample; to be asked once for each."""
        return self._random.random() < self.rate

    def again(
        self,
        kernel: Kernel,
        setting: Setting,
        pages: BatchPages,
        codes: Codes | None,
        doubt: Bools | None,
        pause: Callable[[], AbstractContextManager[bool]],
        running: Callable[[], bool],
    ) -> None:
        """Judge a batch's pages again.

        :param codes: what the live judgement said; None where it found nothing.
        :param doubt: pages that were bad at one of the two looks and were not accused: they changed during
            the write.
        :param running: whether the judgement still holds: DMA was not stopped since, the kernel is the same.
        """
        said = np.zeros(pages.count, dtype=np.uint8) if codes is None else codes.copy()
        live = pages.facts
        with pause() as stopped:
            if not stopped:
                self._counts["not_stopped"] += 1
            elif not running():
                self._counts["raced_with_stop"] += 1
            else:
                self._compare(kernel, setting, pages, said, live, doubt)

    def figures(self) -> dict[str, Any]:
        """Plain values: see docs/audit.md."""
        names = [
            *("judgements", "pages", "clean", "bad", "agreed", "turned", "mended", "disagreed"),
            *("raced_with_stop", "not_stopped"),
        ]
        return {
            "rate": self.rate,
            "seed": self.seed,
            **{name: self._counts[name] for name in names},
            "disagreements": list(self._shown),
        }

    def _compare(
        self,
        kernel: Kernel,
        setting: Setting,
        pages: BatchPages,
        said: Codes,
        live: PageFacts | None,
        doubt: Bools | None,
    ) -> None:
        pfns = pages.pages.pfns
        standing = PageSet(kernel, pfns)  # of its own: nothing that the live look has kept is used again
        standing.read()
        facts = standing.facts()
        codes = judge(facts, pages.record.promise(pfns), setting)
        moved = np.array([not kernel.vmemmap.still_there(pfn) for pfn in pfns.tolist()], dtype=bool)
        differ = ((said != 0) != (codes != 0)) | moved
        changed = _changed(live, facts, setting)
        turned = differ & ~moved & (said == 0) & (changed if doubt is None else changed | doubt)
        mended = differ & ~moved & (said != 0) & changed
        disagreed = differ & ~turned & ~mended
        self._counts.update(
            judgements=1,
            pages=len(pfns),
            clean=int(np.count_nonzero(said == 0)),
            bad=int(np.count_nonzero(said)),
            agreed=int(np.count_nonzero(~differ)),
            turned=int(np.count_nonzero(turned)),
            mended=int(np.count_nonzero(mended)),
            disagreed=int(np.count_nonzero(disagreed)),
        )
        for row in np.flatnonzero(disagreed)[: _MAX_SHOWN - len(self._shown)].tolist():
            now = f"{_name(codes[row])} ({view_page(kernel, facts, row)})"
            then = "" if live is None else f" ({view_page(kernel, live, row)})"
            now += ", its struct page elsewhere" if moved[row] else ""
            self._shown.append(
                f"page {pfns[row]:#x}: live {_name(said[row])}{then}; with the vCPUs stopped {now}"
            )


def _name(code: int) -> str:
    return f"{PAGE_RULES[code - 1].name} ({PAGE_RULES[code - 1].id})" if code else "clean"


def _changed(live: PageFacts | None, now: PageFacts, setting: Setting) -> Bools:
    """Pages of which something that rules ask for is no longer what the live look saw."""
    if live is None or len(live.pfn) != len(now.pfn):
        return np.zeros(len(now.pfn), dtype=bool)
    bits = np.uint64(setting.slab_bit | setting.reserved_bit)
    changed: Bools = (live.flags ^ now.flags) & bits != 0
    for name in ("present", "torn", "large", "mapping", "index", "pins", "typed"):
        changed |= getattr(live, name) != getattr(now, name)
    changed |= (live.refcount == 0) != (now.refcount == 0)
    return changed
