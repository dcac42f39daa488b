# SPDX-License-Identifier: GPL-2.0-or-later
"""Judging every DMA write against the guest's own page state: rules, ledger, verdicts, evidence."""

from vcapdev.dmacheck.checker import Checker
from vcapdev.dmacheck.verdict import Verdict

__all__ = ["Checker", "Verdict"]
