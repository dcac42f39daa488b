# SPDX-License-Identifier: GPL-2.0-or-later
"""VERSION: which protocol the two sides speak, and what each can take.

The reply names only capabilities that the client proposed, as the specification demands. So it is also never
longer than the proposal: QEMU receives it into the proposal's own buffer (hw/vfio-user/proxy.c,
vfio_user_send_wait).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.limits import Limits

_PAGE_SIZES = ((1 << 64) - 1) & ~(wire.PAGE_SIZE - 1)  # every power of two from 4096 on


def negotiate(payload: memoryview, limits: Limits) -> bytes:
    """The payload of the reply to a VERSION message.

    :raise OSError: when the proposal is malformed or cannot be met; the connection must then be closed.
    """
    if len(payload) < wire.VERSION.size:
        raise OSError(errno.EINVAL, f"{len(payload)} bytes are too short")
    major, minor = wire.VERSION.unpack_from(payload)
    if major != wire.MAJOR:
        raise OSError(
            errno.EPROTONOSUPPORT, f"version {major}.{minor} is proposed, only {wire.MAJOR}.x is spoken"
        )
    answer = wire.VERSION.pack(wire.MAJOR, min(minor, wire.MINOR))
    data = bytes(payload[wire.VERSION.size :])
    if not data:
        return answer
    agreed = {"capabilities": _agree(_parse(data, limits), limits)}
    return answer + json.dumps(agreed, separators=(",", ":")).encode() + b"\0"


def _parse(data: bytes, limits: Limits) -> dict[str, object]:
    """The proposed capabilities."""
    if len(data) > limits.max_version_data:
        raise OSError(errno.E2BIG, f"{len(data)} bytes of capabilities")
    if data[-1]:
        raise OSError(errno.EINVAL, "the capabilities do not end in NUL")
    try:
        proposal = json.loads(data[:-1].decode())
    except (ValueError, RecursionError) as error:
        raise OSError(errno.EINVAL, "the capabilities are no JSON") from error
    capabilities = proposal.get("capabilities", {}) if isinstance(proposal, dict) else None
    if not isinstance(capabilities, dict):
        raise OSError(errno.EINVAL, "the capabilities are no JSON object")
    return capabilities


def _agree(proposed: dict[str, object], limits: Limits) -> dict[str, object]:
    """Of what is proposed, what we can do; unknown capabilities are left out."""
    ours: dict[str, Callable[[int], int]] = {
        "max_msg_fds": lambda theirs: min(theirs, limits.max_message_fds),
        "max_data_xfer_size": lambda theirs: min(theirs, limits.max_transfer),
        "max_dma_maps": lambda theirs: min(theirs, limits.max_maps),
        "pgsizes": lambda theirs: theirs & _PAGE_SIZES,
    }
    agreed: dict[str, object] = {}
    for name, choose in ours.items():
        if name in proposed:
            agreed[name] = choose(_number(name, proposed[name]))
    if agreed.get("pgsizes") == 0:
        raise OSError(errno.EINVAL, f"no page size of at least {wire.PAGE_SIZE} is proposed")
    multiple = proposed.get("write_multiple")
    if isinstance(multiple, bool):
        agreed["write_multiple"] = multiple
    return agreed


def _number(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise OSError(errno.EINVAL, f"the capability {name} is no number")
    return value
