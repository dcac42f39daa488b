# SPDX-License-Identifier: GPL-2.0-or-later
"""What a finding is about, as drgn objects: made from a verdict and a look at the guest as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from drgn import Object, Program

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.owners import find_owners
from vcapdev.guestmm.pageview import OWNED_KINDS
from vcapdev.guestmm.target import program_of

Json = Mapping[str, Any]


class Bindings:
    """The names of a prompt. What a finding does not have is None.

    :param verdict: as :meth:`vcapdev.dmacheck.verdict.Verdict.to_json` puts it.
    """

    def __init__(self, kernel: Kernel, verdict: Json) -> None:
        self.program: Program = program_of(kernel)
        self._kernel = kernel
        self._verdict = verdict
        self.pfn: int | None = None
        self.page: Object | None = None
        self.vma: Object | None = None
        self.task: Object | None = None
        self.notes: list[str] = []  # why something could not be found
        pfn = verdict.get("pfn")
        if isinstance(pfn, int) and 0 <= pfn < kernel.vmemmap.pages:
            self.pfn = pfn
            self.page = Object(self.program, "struct page *", kernel.vmemmap.address(pfn))
            self._find_owner()

    def names(self) -> dict[str, Any]:
        """Name to value, for the prompt."""
        return {
            "page": self.page,
            "pfn": self.pfn,
            "vma": self.vma,
            "task": self.task,
            "buffer": _space(self._verdict.get("buffer")),
            "instruction": _space(self._verdict.get("instruction")),
            "verdict": dict(self._verdict),
            "splat": lambda: print(self._verdict.get("splat", ""), end=""),
        }

    def banner(self) -> str:
        """What is bound, for people."""
        lines = ["guest memory by drgn; Ctrl-D goes on. Bound here:"]
        rows = {
            "page": _pointer("page", self.page) + ("" if self.pfn is None else f", pfn {self.pfn:#x}"),
            "vma": _pointer("vm_area_struct", self.vma),
            "task": _pointer("task_struct", self.task),
            "buffer": _short(self._verdict.get("buffer")),
            "instruction": _short(self._verdict.get("instruction")),
            "verdict": str(self._verdict.get("key")),
        }
        lines += [f"  {name:<12} {text}" for name, text in rows.items()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join([*lines, "  splat()      prints the finding"])

    def _find_owner(self) -> None:
        """The first area that maps the page by its identity: as it is now, else as it was."""
        try:
            for view in self._views():
                owners = find_owners(self._kernel, view["mapping"], view["index"])
                if owners:
                    self.vma = Object(self.program, "struct vm_area_struct *", owners[0].vma)
                    if owners[0].task:
                        self.task = Object(self.program, "struct task_struct *", owners[0].task)
                    return
            self.notes.append("nobody that maps the page could be found")
        except Exception as error:  # a guest may lead drgn anywhere; the rest of the prompt is of use
            self.notes.append(f"the owner could not be followed: {error}"[:200])

    def _views(self) -> list[Json]:
        evidence = self._verdict.get("evidence") or {}
        found = [evidence.get(name) for name in ("now", "before", "after")]
        return [view for view in found if view and any(kind in view["kind"] for kind in OWNED_KINDS)]


def _space(value: Any) -> SimpleNamespace | None:
    return SimpleNamespace(**value) if isinstance(value, Mapping) else None


def _pointer(kind: str, value: Object | None) -> str:
    return "none" if value is None else f"(struct {kind} *){value.value_():#x}"


def _short(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "none"
    return ", ".join(
        f"{name} {each:#x}" if name == "address" or name.endswith("_address") else f"{name} {each}"
        for name, each in value.items()
        if each is not None
    )
