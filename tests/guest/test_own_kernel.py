# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what a user brings along: his kernel, module, parameters and QEMU options are what really runs.

Each test is the command as he would type it, and asks the guest, by its kernel log, what it got.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vcapdev.image.cache import Cache
from vcapdev.image.initramfs import wanted_modules
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.modules import ModuleTree, load_order
from vcapdev.image.mutants import UNALTERED
from vcapdev.image.provision import provision
from vcapdev.image.recipe import load_recipe
from vcapdev.image.sources import header_tree, kernel_version
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared

pytestmark = pytest.mark.guest

DEADLINE = 240.0  # seconds for one run; 8 on an idle machine
SHORT = ("--frames", "5", "--swap", "none")
ANOTHER = "trixie-6.12"  # not the default: so the guest itself can tell whose kernel it has


def run(report: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Report and kernel log of a ``vcapdev run`` that must be clean."""
    done = subprocess.run(
        [sys.executable, "-m", "vcapdev", "run", *words, *SHORT, "--report", str(report)],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((report / "report.json").read_text())
    assert (told["exit_status"], told["frames"]["intact"]) == (0, 5)
    assert told["dma"]["pages_checked"] > 0, told["dma"]
    return told, (report / "kernel.log").read_text()


def test_an_image_a_module_parameters_and_qemu_options_at_once(tmp_path: Path, prepared: Prepared) -> None:
    """The image is the stock one, copied; the module the stock driver, built anew with another version."""
    image = shutil.copy(prepared.guest.kernel, tmp_path / "my-bzImage")
    driver = build_mutant(load_recipe(RunOptions().kernel), prepared.guest, UNALTERED, Silent())["bttv"]
    module, code = tmp_path / "my-bttv.ko", driver.read_bytes()
    assert code.count(b"0.9.19\0") == 2, "what it prints, and what modinfo tells"
    module.write_bytes(code.replace(b"0.9.19\0", b"0.9.77\0"))
    words = ["--kimg", str(image), "--module", str(module), "--append", "bttv.card=105 mine=yes"]
    told, log = run(tmp_path / "report", *words, "--qemu-opts", "-smbios type=1,product=MyBoard")
    assert "page_poison=1 oops=panic panic=-1 bttv.card=105 mine=yes\n" in log
    assert "bttv: driver version 0.9.77 loaded" in log
    assert "[card=105,insmod option]" in log, "what the command line gives to a module"
    assert "DMI: QEMU MyBoard" in log
    assert told["kernel"]["image"] == str(image)
    assert told["kernel"]["replaced_modules"] == [str(module)]
    assert [one["name"] for one in told["kernel"]["modules"]] == ["bttv"]
    assert told["command_line"]["qemu"][-2:] == ["-smbios", "type=1,product=MyBoard"]


def built_tree(kernel: str, tree: Path) -> str:
    """Lay out Debian's binaries as the build of a lean kernel leaves its own; the kernel's release.

    Image, modules and settings are where ``make bzImage modules`` puts them, of the modules only those that
    the guest loads. It was not built here: that takes 12 minutes. There is no vmlinux, as BTF does.
    """
    recipe = load_recipe(kernel)
    guest = provision(recipe, progress=Silent())
    headers = header_tree(recipe, kernel_version(guest), Silent(), Cache())
    (built,) = headers.glob(f"usr/src/linux-headers-{guest.release}")
    for name in (".config", "Module.symvers", "include/config/kernel.release", "include/config/auto.conf"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built / name, tree / name)
    (tree / "arch/x86/boot").mkdir(parents=True)
    shutil.copy(guest.kernel, tree / "arch/x86/boot/bzImage")
    shutil.copy(guest.modules / "modules.builtin", tree)
    stock, order = ModuleTree(guest.modules), []
    for module in load_order(stock, wanted_modules(stock, "none")):
        place = tree / module.target.removeprefix("kernel/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(module.image)
        order.append(f"{place.relative_to(tree).with_suffix('.o')}\n")
    (tree / "modules.order").write_text("".join(order))
    return guest.release


def test_a_built_tree_is_what_boots(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    release = built_tree(ANOTHER, tree)
    told, log = run(tmp_path / "report", "--kdir", str(tree), "--append", "mine=too")
    assert f"Linux version {release} " in log
    assert " mine=too\n" in log
    assert (told["kernel"]["release"], told["kernel"]["recipe"]) == (release, RunOptions().kernel)
    assert told["kernel"]["image"] == str(tree / "arch/x86/boot/bzImage")
    assert "bttv: driver version" in log
