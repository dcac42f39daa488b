# SPDX-License-Identifier: GPL-2.0-or-later
"""Hooks that the plugin adds to pytest's, for a conftest.py."""

from __future__ import annotations

import pytest

from vcapdev.testing.opening import Opener


@pytest.hookspec(firstresult=True)
def pytest_vcapdev_opener(config: pytest.Config) -> Opener | None:
    """What makes a guest and its device from a configuration; None for the plugin's own.

    For guests that are started in another way, and for tests of the plugin itself.
    """
