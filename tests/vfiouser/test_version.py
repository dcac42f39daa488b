# SPDX-License-Identifier: GPL-2.0-or-later
"""VERSION: it comes first and once, names only what was proposed, and fits QEMU's buffer."""

from __future__ import annotations

import errno
import json

import pytest
from client import QEMU_CAPABILITIES, Disconnected

from vcapdev.vfiouser import Limits, wire
from vcapdev.vfiouser.wire import Command


def refuse(served, payload, expect):
    served.client.call(Command.VERSION, payload, expect=expect)
    with pytest.raises(Disconnected):
        served.client.receive()
    assert not served.disconnects, "it never was a client"


def test_what_qemu_proposes(fresh):
    assert fresh.client.version() == {
        "max_msg_fds": 8,
        "max_data_xfer_size": 1048576,
        "max_dma_maps": 65535,
        "pgsizes": 4096,
        "write_multiple": True,
    }
    assert fresh.server.connected


def test_only_what_was_proposed(fresh):
    assert fresh.client.version({"max_dma_maps": 7, "unheard_of": {"x": 1}}) == {"max_dma_maps": 7}


def test_own_limits_show(serve):
    served = serve(Limits(max_transfer=64, max_message_fds=2, max_maps=3))
    agreed = served.client.version(QEMU_CAPABILITIES)
    assert (agreed["max_data_xfer_size"], agreed["max_msg_fds"], agreed["max_dma_maps"]) == (64, 2, 3)


def test_without_data(fresh):
    assert fresh.client.call(Command.VERSION, wire.VERSION.pack(0, 5)) == wire.VERSION.pack(0, 0)
    assert fresh.client.read(0, 0, 4) == bytes(4)


def test_major_mismatch(fresh):
    refuse(fresh, wire.VERSION.pack(1, 0), errno.EPROTONOSUPPORT)


@pytest.mark.parametrize(
    "data",
    [
        b'{"capabilities":{}}',  # no NUL
        b"\0",
        b"{\0",
        b"[]\0",
        b'"x"\0',
        b'{"capabilities":3}\0',
        b"\xff\xfe\0",
        b"[" * 4000 + b"\0",
        b'{"capabilities":{"pgsizes":16}}\0',
        b'{"capabilities":{"pgsizes":true}}\0',
        b'{"capabilities":{"max_msg_fds":-1}}\0',
        b'{"capabilities":{"max_dma_maps":NaN}}\0',
        b'{"capabilities":{"max_data_xfer_size":"1"}}\0',
        b'{"capabilities":{"max_data_xfer_size":18446744073709551616}}\0',
    ],
)
def test_malformed_data(fresh, data):
    refuse(fresh, wire.VERSION.pack(0, 0) + data, errno.EINVAL)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0"])
def test_short(fresh, payload):
    refuse(fresh, payload, errno.EINVAL)


def test_long(fresh):
    data = json.dumps({"x": "y" * 5000}).encode() + b"\0"
    refuse(fresh, wire.VERSION.pack(0, 0) + data, errno.E2BIG)


def test_must_come_first(fresh):
    fresh.client.call(Command.DEVICE_RESET, expect=errno.EPROTO)
    fresh.client.call(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4), expect=errno.EPROTO)
    assert not fresh.device.resets
    fresh.client.version()


def test_only_once(served):
    served.client.call(Command.VERSION, wire.VERSION.pack(0, 0), expect=errno.EPROTO)
    assert served.client.read(0, 0, 4) == bytes(4)


def test_with_descriptor(fresh, ram):
    fresh.client.call(Command.VERSION, wire.VERSION.pack(0, 0), fds=[ram], expect=errno.EINVAL)
