# SPDX-License-Identifier: GPL-2.0-or-later
"""The synthetic guest is shared with the tests of the checker."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

import pytest
from finding import Scene


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.guest.close()
