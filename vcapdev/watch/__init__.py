# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev watch``: edit a module, and see a moment later what the card and the checker say to it."""
