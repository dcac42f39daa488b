# SPDX-License-Identifier: GPL-2.0-or-later
"""A tiny signed Debian repository on disk, and an HTTP server for it that can misbehave."""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openpgp import KEY, Key

from vcapdev.image.recipe import Recipe, parse_recipe


def make_recipe(text: str) -> Recipe:
    """A recipe from its text, named test."""
    return parse_recipe(text, Path("test.yaml"))


@dataclass
class Deb:
    """A package in the pool."""

    stanza: str
    path: Path


@dataclass
class Repository:
    """``pool/`` and ``dists/`` below ``root``."""

    root: Path
    debs: dict[str, list[Deb]] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.root.as_uri().replace("file:///", "file:/")

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, bytes] | None = None,
        *,
        depends: str = "",
        suite: str = "bookworm",
    ) -> Path:
        """Build a package with dpkg-deb and list it in ``suite``; call :meth:`publish` afterwards."""
        tree = self.root / "build"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Maintainer: nobody <nobody@localhost>\nDescription: for a test\n"
        (tree / "DEBIAN/control").write_text(control)
        for path, content in (files or {f"usr/share/{name}/version": version.encode()}).items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755)
        deb = (
            self.root / f"pool/main/{name[0]}/{name}/{name}_{version.partition(':')[2] or version}_amd64.deb"
        )
        deb.parent.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(deb)]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(tree)
        data = deb.read_bytes()
        stanza = (
            f"{control}Filename: {deb.relative_to(self.root)}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        self.debs.setdefault(suite, []).append(Deb(stanza, deb))
        return deb

    def publish(
        self,
        suite: str = "bookworm",
        *,
        key: Key | None = KEY,
        age: float = 3600.0,
        valid: float | None = None,
    ) -> Path:
        """Write the signed indexes of ``suite``; ``age`` and ``valid`` in seconds. The InRelease file."""
        packages = "\n".join(deb.stanza for deb in self.debs.get(suite, [])).encode()
        index = self.root / f"dists/{suite}/main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_bytes(packages)
        made = time.time() - age
        until = f"Valid-Until: {_date(made + valid)}\n" if valid is not None else ""
        release = (
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {_date(made)}\n{until}"
            "Architectures: amd64\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(packages).hexdigest()} {len(packages)} main/binary-amd64/Packages\n"
        )
        file = self.root / f"dists/{suite}" / ("InRelease" if key else "Release")
        file.write_text(key.clearsign(release) if key else release)
        return file


def _date(when: float) -> str:
    return email.utils.formatdate(when, usegmt=True)


class Server:
    """Serves a repository over HTTP with Range; counts requests; can cut a file short or lack it."""

    def __init__(self, root: Path) -> None:
        self.requests: list[tuple[str, str]] = []  # path, Range header
        self.gone: set[str] = set()  # file names that answer 404
        self.stall_after: dict[str, int] = {}  # file name -> bytes after which nothing comes any more
        self.stalled = threading.Event()
        self._ended = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self, "root": root})
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def fetched(self, pattern: str) -> list[tuple[str, str]]:
        return [request for request in self.requests if re.search(pattern, request[0])]

    def wait(self) -> None:
        """Sleep until the server ends: what a stalled transfer does."""
        self.stalled.set()
        self._ended.wait(60)

    def close(self) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Server
    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.owner.requests.append((self.path, asked))
        file = self.root / self.path.lstrip("/").replace("%2b", "+").replace("%3a", ":")
        if not file.is_file() or file.name in self.owner.gone:
            self._head(404, 0)
            return
        data = file.read_bytes()
        modified = email.utils.formatdate(int(file.stat().st_mtime), usegmt=True)
        start = int(asked[6:].partition("-")[0]) if asked and self.headers.get("If-Range") == modified else 0
        extra = {"Last-Modified": modified}
        if start:
            extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(206 if start else 200, len(data) - start, extra)
        limit = self.owner.stall_after.get(file.name)
        self.wfile.write(data[start:] if limit is None else data[start:limit])
        if limit is not None:
            self.wfile.flush()
            self.owner.wait()

    def _head(self, status: int, length: int, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


KERNEL = "linux-image-amd64"
RECIPE = make_recipe(
    "suites: [bookworm]\nkernel: linux-image-amd64\npackages: [tool]\nassume: [initramfs-tools]\n"
)
SMALL = make_recipe("suites: [bookworm]\npackages: [tool]\n")


def add_kernel(repository: Repository, version: str, abi: str, suite: str = "bookworm") -> Path:
    """A kernel as Debian packages it: a metapackage that depends on exactly one image."""
    release = f"{abi}-amd64"
    image = repository.add(
        f"linux-image-{release}",
        version,
        {f"boot/vmlinuz-{release}": b"kernel", f"lib/modules/{release}/modules.order": b""},
        depends="initramfs-tools | linux-initramfs-tool",
        suite=suite,
    )
    depends = f"linux-image-{release} (= {version})"
    repository.add(KERNEL, version, depends=depends, suite=suite)
    return image


def fill(repository: Repository) -> None:
    """What :data:`RECIPE` asks for: a kernel, and a tool with its library."""
    add_kernel(repository, "6.1.5-1", "6.1.0-5")
    repository.add("tool", "1:2.0-1", {"usr/bin/tool": b"#!/bin/sh\n"}, depends="libtool1 (>= 1.0)")
    repository.add("libtool1", "1.2-3", {"usr/lib/libtool.so.1": b"library"})
    repository.publish()
