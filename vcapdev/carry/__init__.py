# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev bundle``: a whole environment in one file, for machines without a network, and for next year."""
