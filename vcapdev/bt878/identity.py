# SPDX-License-Identifier: GPL-2.0-or-later
"""What the chip's function 0 says in PCI configuration space, for a board.

Taken from ``lspci -xxx`` of real cards of revision 0x02 and 0x11 as quoted in mailing lists, and from Linux
6.1 ``drivers/media/pci/bt8xx/bt848.h`` (device control byte at 0x40). A real chip has the audio function
beside it and says "multifunction"; this one is alone, so its header type is 0.
"""

from __future__ import annotations

from vcapdev.bt878.board import Board
from vcapdev.pci.capabilities import PowerManagement, VitalProductData, vital_product_data
from vcapdev.pci.config import Capability, ConfigSpace, Identity

VENDOR = 0x109E  # Brooktree
DEVICE = 0x036E  # Bt878
BAR0_SIZE = 0x1000
DEVICE_CONTROL = 0x40
TBFX = 1 << 1  # workaround for Intel's 430FX
VSFX = 1 << 2  # workaround for VIA's and SiS's bridges


def config_space(board: Board) -> ConfigSpace:
    """Configuration space of the card, as after power-on."""
    capabilities: tuple[Capability, ...] = ()
    if board.revision >= 0x11:
        contents = vital_product_data(board.title, board.vpd)
        capabilities = (VitalProductData(0x44, contents), PowerManagement(0x4C))
    return ConfigSpace(
        Identity(
            vendor=VENDOR,
            device=DEVICE,
            revision=board.revision,
            class_code=0x040000,
            subsystem_vendor=board.subsystem_vendor,
            subsystem_device=board.subsystem_device,
            bar0_size=BAR0_SIZE,
            min_gnt=0x10,
            max_lat=0x28,
            capabilities=capabilities,
            scratch={DEVICE_CONTROL: TBFX | VSFX},
        )
    )
