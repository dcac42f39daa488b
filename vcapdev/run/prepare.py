# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a run needs before a guest can boot: kernel, QEMU, accelerator, modules, initramfs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vcapdev.bt878.board import Board, load_board
from vcapdev.image.initramfs import WANTED_MODULES, build_initramfs
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.programs import build_programs
from vcapdev.image.provision import Provisioned, provision
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Progress
from vcapdev.report.model import Kernel, QemuInfo
from vcapdev.run.options import RunOptions
from vcapdev.vm.accel import Accel, choose_accel
from vcapdev.vm.qemu import Qemu, provision_qemu
