# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenario files: the calls of ``vcapdev.testing`` written down in YAML, played, and told in many formats."""
