# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a finding, and looking at it: memory images, bundles, the drgn prompt."""
