# SPDX-License-Identifier: GPL-2.0-or-later
"""Galleries: many scenes in one boot, altered drivers that must be caught, look-alikes that must not."""
