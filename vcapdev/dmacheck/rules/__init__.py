# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device must never do to memory: one small class for each rule.

A page rule looks at all pages of a batch at once and says which ones break it. The order of
:data:`PAGE_RULES` is their precedence: a page is blamed under the first rule that it breaks. The other rules
are judged where their facts come up. docs/rules.md is made of these classes (``vcapdev.dmacheck.rulebook``).
"""

from __future__ import annotations

from vcapdev.dmacheck.rules.base import (
    ALWAYS,
    AT_RELEASE,
    AT_REST,
    BY_ORDER,
    CONFIRMED,
    DEVICE,
    KERNEL,
    TWICE,
    USER,
    Codes,
    PageRule,
    Promise,
    Rule,
    Setting,
    classify,
    has_owner,
    unmarked,
)
from vcapdev.dmacheck.rules.contract import (
    CONTRACT_RULES,
    COPIED_AWAY,
    MISSING_PIN,
    NOT_THE_DEVICES,
    OUTSIDE_BUFFER,
    STALE_BUFFER,
    UNLISTED,
)
from vcapdev.dmacheck.rules.device import (
    CROSSES_PAGES,
    DEVICE_RULES,
    DMA_OFF,
    FETCH_CHANGED,
    FETCH_FREE,
    FETCH_REUSED,
    NO_WRITE_RIGHT,
    STABLE_PAGE,
)
from vcapdev.dmacheck.rules.dmaapi import DMAAPI_RULES, NEVER_MAPPED, NOT_FOR_WRITING, USE_AFTER_UNMAP
from vcapdev.dmacheck.rules.pages import (
    BAD_COUNT,
    NOT_PINNED,
    OUTSIDE_RAM,
    PAGE_RULES,
    RECYCLED,
    certain_alone,
    judge,
)
from vcapdev.dmacheck.rules.pins import NOT_DIRTIED, PIN_LEAK, PIN_RULES, PINNED_AFTER_CLOSE

ALL_RULES: tuple[Rule, ...] = (
    *PAGE_RULES,
    *PIN_RULES,
    *DEVICE_RULES,
    *CONTRACT_RULES,
    *DMAAPI_RULES,
)

__all__ = [
    "ALL_RULES",
    "ALWAYS",
    "AT_RELEASE",
    "AT_REST",
    "BAD_COUNT",
    "BY_ORDER",
    "CONFIRMED",
    "CONTRACT_RULES",
    "COPIED_AWAY",
    "CROSSES_PAGES",
    "DEVICE",
    "DEVICE_RULES",
    "DMAAPI_RULES",
    "DMA_OFF",
    "FETCH_CHANGED",
    "FETCH_FREE",
    "FETCH_REUSED",
    "KERNEL",
    "MISSING_PIN",
    "NEVER_MAPPED",
    "NOT_DIRTIED",
    "NOT_FOR_WRITING",
    "NOT_PINNED",
    "NOT_THE_DEVICES",
    "NO_WRITE_RIGHT",
    "OUTSIDE_BUFFER",
    "OUTSIDE_RAM",
    "PAGE_RULES",
    "PINNED_AFTER_CLOSE",
    "PIN_LEAK",
    "PIN_RULES",
    "RECYCLED",
    "STABLE_PAGE",
    "STALE_BUFFER",
    "TWICE",
    "UNLISTED",
    "USER",
    "USE_AFTER_UNMAP",
    "Codes",
    "PageRule",
    "Promise",
    "Rule",
    "Setting",
    "certain_alone",
    "classify",
    "has_owner",
    "judge",
    "unmarked",
]
