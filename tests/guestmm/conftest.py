# SPDX-License-Identifier: GPL-2.0-or-later
"""The synthetic guest is shared with the tests of the checker."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

import pytest
from synthetic import STYLES, SyntheticGuest


@pytest.fixture
def guest():
    made = SyntheticGuest()
    yield made
    made.close()


@pytest.fixture(params=sorted(STYLES))
def any_guest(request):
    """A guest of each layout of struct page."""
    made = SyntheticGuest(request.param)
    yield made
    made.close()
