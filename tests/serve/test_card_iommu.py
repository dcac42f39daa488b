# SPDX-License-Identifier: GPL-2.0-or-later
"""A card behind a vIOMMU, from the socket to the finding: maps, unmaps and register writes in one order."""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vfiouser"))

from client import Client, memfd

from vcapdev.dmacheck.verdict import Verdict
from vcapdev.errors import UsageError
from vcapdev.serve.card import Card
from vcapdev.serve.options import ServeOptions
from vcapdev.serve.ram import parse, q35
from vcapdev.vfiouser.device import BAR0, CONFIG
from vcapdev.vfiouser.rammap import RamPiece
from vcapdev.vfiouser.reactor import Reactor

MIB = 1 << 20
RAM = 4 * MIB
PAGE = 4096
COMMAND, MEMORY_AND_MASTER = 4, 1 << 1 | 1 << 2
GPIO_DMA_CTL, RISC_STRT_ADD = 0x10C, 0x114
RISC = 0xFFFF_0000
SYNC_RESYNC_FM1 = 0x8000_8006


class Behind:
    """A card and its QEMU, joined by a socketpair, in one thread."""

    def __init__(self) -> None:
        self.found: list[Verdict] = []
        self.reactor = Reactor()
        options = ServeOptions(clock="step", iommu="4M")
        self.card = Card(options, self.reactor, self.found.append, lambda: None)
        ours, theirs = socket.socketpair()
        self.card.server.serve_connected(ours)
        self.client = Client(theirs, self.card.server.drain)
        self.client.version()
        self.ram = memfd(RAM)

    def register(self, offset: int, value: int) -> None:
        self.client.write(BAR0, offset, struct.pack("<I", value))

    def run_program(self, *words: int) -> None:
        os.pwrite(self.ram, struct.pack(f"<{len(words)}I", *words), 5 * PAGE)
        self.client.write(CONFIG, COMMAND, struct.pack("<H", MEMORY_AND_MASTER))
        self.register(RISC_STRT_ADD, RISC)
        self.register(GPIO_DMA_CTL, 3)

    def fields(self) -> None:
        """Let some pass; whether any DMA is done is for the test to ask."""
        for _ in range(4):
            self.card.chip.clock.step(1)
            self.reactor.run_once(0)

    @property
    def fetches(self) -> bool:
        """Whether the program has been fetched from its mapping."""
        assert self.card.behind is not None
        mapping = self.card.behind.domain.at(RISC)
        return mapping is not None and mapping.fetched


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind()
    yield made
    made.client.sock.close()
    made.card.close()
    made.reactor.close()
    os.close(made.ram)


def test_the_checker_has_ram_and_the_card_what_is_mapped(behind: Behind) -> None:
    behind.client.dma_map(0, RAM, behind.ram)
    assert not behind.card.check_status()["iommu"]["translating"]
    behind.client.dma_unmap(0, RAM)
    behind.client.dma_map(RISC, PAGE, behind.ram, offset=5 * PAGE)
    assert [(s.start, s.size) for s in behind.card.guest_memory.segments] == [(0, RAM)]
    assert behind.card.bus.reaches(RISC, PAGE)
    assert not behind.card.bus.reaches(0, 1)
    figures = behind.card.check_status()["iommu"]
    assert figures["translating"]
    assert (figures["maps"], figures["unmaps"], figures["refused"]) == (2, 1, 0)
    behind.client.sock.close()
    behind.card.server.drain()
    assert list(behind.card.guest_memory.segments) == []


def test_a_fetch_through_a_mapping_that_is_gone_tells_which_registers_were_written(behind: Behind) -> None:
    behind.client.dma_map(0, RAM, behind.ram)
    behind.client.dma_unmap(0, RAM)
    behind.client.dma_map(RISC, PAGE, behind.ram, offset=5 * PAGE)
    behind.run_program(SYNC_RESYNC_FM1, 0, 0x7000_0000, RISC)
    behind.fields()
    assert behind.fetches
    assert behind.found == []
    behind.client.dma_unmap(RISC, PAGE)
    behind.fields()
    (verdict,) = behind.found
    assert verdict.rule.name == "use-after-unmap"
    assert verdict.subject == "DMA fetch from a program (coherent)"
    made, torn = verdict.evidence.notes[:2]
    assert f"{RISC:#x} led to physical {5 * PAGE:#x}, mapped as no. 3" in made
    assert "unmapped as no. 4" in torn
    assert "register write 2: GPIO_DMA_CTL 0x00000003)" in torn
    assert behind.card.config.read(6, 2)[1] & 0x20, "received a master abort (PCI 3.0, status bit 13)"


def test_stopped_before_the_unmap_there_is_nothing_to_find(behind: Behind) -> None:
    behind.client.dma_map(RISC, PAGE, behind.ram, offset=5 * PAGE)
    behind.run_program(SYNC_RESYNC_FM1, 0, 0x7000_0000, RISC)
    behind.fields()
    assert behind.fetches
    behind.register(GPIO_DMA_CTL, 0)
    behind.client.dma_unmap(RISC, PAGE)
    behind.fields()
    assert behind.found == []
    assert behind.card.check_status()["iommu"]["refused"] == 0


def test_where_ram_lies() -> None:
    gib = 1 << 30
    assert parse("256M") == q35(256 * MIB) == [RamPiece(0, 256 * MIB, 0)]
    assert parse("2815M") == [RamPiece(0, 2815 * MIB, 0)]
    assert parse("2816M") == [RamPiece(0, 2 * gib, 0), RamPiece(4 * gib, 768 * MIB, 2 * gib)]
    assert parse("4G") == [RamPiece(0, 2 * gib, 0), RamPiece(4 * gib, 2 * gib, 2 * gib)]
    assert parse("0x1000+0x2000@0,0+4096@0x2000") == [RamPiece(0, 4096, 0x2000), RamPiece(0x1000, 0x2000, 0)]


@pytest.mark.parametrize(
    "text", ["", "256", "M", "0M", "0+0@0", "0+100@0", "0+8192@0,4096+4096@8192", "9999999G"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text) + "$"):
        parse(text)


def test_the_option_is_refused_in_words() -> None:
    import argparse

    from vcapdev.serve.options import add_arguments, from_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ServeOptions(socket_path=Path("card"), iommu="256M").command_line()
    assert from_arguments(parser.parse_args(words)).iommu == "256M"
    with pytest.raises(UsageError, match="--iommu much: give a q35 machine's RAM"):
        from_arguments(parser.parse_args(["--socket-path", "card", "--iommu", "much"]))
