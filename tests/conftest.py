# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: hypothesis measures no time, so that a busy machine fails nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("vcapdev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vcapdev")
