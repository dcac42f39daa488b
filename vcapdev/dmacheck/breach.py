# SPDX-License-Identifier: GPL-2.0-or-later
"""A suspicion that has to be confirmed before it becomes a verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.rules import Rule


@dataclass(frozen=True)
class Breach:
    """The rule, what is wrong in words without numbers, and the rows of the batch's pages.

    ``piece`` is the piece of the batch to blame, where one is known.
    """

    rule: Rule
    subject: str
    rows: NDArray[np.intp]
    piece: int | None = None
