# SPDX-License-Identifier: GPL-2.0-or-later
"""Which statements depend on each other: swapping others would change nothing that anybody could notice."""

from __future__ import annotations

import pytest

from vcapdev.gallery.depends import depend, effects


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("kfree(dma->pages);", "dma->pages = NULL;"),
        ("dma->nr_pages = last - first + 1;", "dma->pages = kmalloc_array(dma->nr_pages, 8, GFP_KERNEL);"),
        ("memset(dma, 0, sizeof(*dma));", "dma->magic = 1;"),
        ("*(rp++) = cpu_to_le32(ri);", "*(rp++) = cpu_to_le32(ra);"),
        ("dma_unmap_sg(dev, dma->sglist, n, d);", "vfree(dma->sglist);"),
        ("n++;", "call(n);"),
        ("offset += bpl;", "todo = offset;"),
        ("mem->magic = MAGIC;", "mem = vb->priv;"),
        ("f->fmt.start = 1;", "copy = f->fmt;"),
    ],
)
def test_order_matters(first: str, second: str) -> None:
    assert depend(first, second)
    assert depend(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("top_irq_flags = 0;", "bottom_irq_flags = 0;"),
        ("geo->vdelay = vdelay;", "geo->width = width;"),
        ("buf->btformat = buf->fmt->btformat;", "buf->btswap = buf->fmt->btswap;"),
        ("btwrite(geo->vtc, BT848_E_VTC + off);", "btwrite(geo->width, BT848_E_HACTIVE_LO + off);"),
        ("y = sg_dma_address(sg);", "z = sg_dma_len(sg);"),
        ("buf->handler.put = vb2_dma_sg_put;", "buf->handler.arg = buf;"),
    ],
)
def test_order_does_not_matter(first: str, second: str) -> None:
    assert not depend(first, second)


def test_what_is_handed_to_a_call_may_be_changed_by_it() -> None:
    found = effects("err = pin(first, &dma->pages);")
    assert found.writes == {"err", "first", "dma->pages"}
    assert effects("x = min_t(size_t, a, b);").writes == {"x"}
