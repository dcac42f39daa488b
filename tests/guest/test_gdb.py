# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that waits for gdb: protects that its stub answers, with the driver where the script says it is."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest

DEADLINE = 180.0  # seconds for any step; a boot takes 7 on an idle machine


class Gdb:
    """As much of GDB's remote serial protocol as it takes: packets, acknowledged."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(path)

    def send(self, command: str) -> None:
        packet = f"${command}#{sum(command.encode()) % 256:02x}"
        self._socket.sendall(packet.encode())

    def ask(self, command: str) -> str:
        self.send(command)
        data = b""
        while not re.search(rb"\$[^#]*#..", data):
            part = self._socket.recv(4096)
            assert part, f"the stub has gone amid an answer to {command}"
            data += part
        self._socket.sendall(b"+")
        return data.partition(b"$")[2].partition(b"#")[0].decode()


def script_named(output: Path, process: subprocess.Popen[bytes]) -> Path:
    """The script that the run tells the user to give to gdb."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        found = re.search(r"gdb -x (\S+)", output.read_text())
        if found:
            return Path(found[1])
        assert process.poll() is None, f"the run ended without waiting: {output.read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"the run named no script within {DEADLINE:g} s: {output.read_text()}")


def test_the_guest_waits_for_gdb_and_the_run_goes_on_with_it(tmp_path: Path) -> None:
    """A real gdb was used by hand; what it needs of us is tested with its protocol."""
    words = ["--gdb", "--frames", "5", "--swap", "none", "--memory", "128"]
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vcapdev", "run", *words], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        script = script_named(output, process).read_text()
        text = re.search(r"^add-symbol-file (\S+/bttv\.ko) (0x\w+)", script, re.MULTILINE)
        assert text, script
        assert Path(text[1]).is_file()
        gdb = Gdb(script.rpartition("target remote ")[2].strip())
        assert gdb.ask("?").startswith("T05"), "it does not stand"
        code = bytes.fromhex(gdb.ask(f"m{int(text[2], 16):x},40"))
        assert code.strip(b"\0"), "no code where the driver is said to be"
        gdb.send("c")
        assert process.wait(DEADLINE) == 0, output.read_text()
        assert "5 of 5 frames intact" in output.read_text()
    finally:
        process.terminate()
        process.wait(DEADLINE)
