# SPDX-License-Identifier: GPL-2.0-or-later
"""For the tests of the plugin: the sessions that they run print the same wherever they run.

pytest prints more of a failure where CI or BUILD_NUMBER is set (``running_on_ci``), and obeys PYTEST_ADDOPTS.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
