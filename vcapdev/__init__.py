# SPDX-License-Identifier: GPL-2.0-or-later
"""A Bt878 capture card for QEMU guests, with every DMA write checked against the guest's page state."""

__version__ = "0.1.0"
