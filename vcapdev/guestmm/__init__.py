# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kernel's memory management, seen from outside: numpy for the fast path, drgn for the rest."""
