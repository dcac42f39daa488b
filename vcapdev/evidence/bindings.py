# SPDX-License-Identifier: GPL-2.0-or-later
"""What a finding is about, as drgn objects: made from a verdict and a look at the guest as it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from drgn import Object, Program, Type

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.modulebtf import module_types
from vcapdev.guestmm.owners import find_owners
from vcapdev.guestmm.pageview import OWNED_KINDS
from vcapdev.guestmm.target import BtfTypes, program_of

Json = Mapping[str, Any]

# Whose types a prompt at a buffer is likely to ask for, and their names for a buffer.
_MODULES = (
    *("videodev", "videobuf_core", "videobuf_dma_sg", "videobuf2_common", "videobuf2_v4l2"),
    *("videobuf2_memops", "videobuf2_dma_sg", "bttv"),
)
_BUFFERS = {"videobuf": "videobuf_buffer", "vb2": "vb2_buffer"}


class Bindings:
    """The names of a prompt. What a finding does not have is None.

    :param verdict: as :meth:`vcapdev.dmacheck.verdict.Verdict.to_json` puts it.
    """

    def __init__(self, kernel: Kernel, verdict: Json) -> None:
        self.program: Program = program_of(kernel)
        if "modules" not in self.program.registered_type_finders():
            self.program.register_type_finder("modules", _module_finder(kernel), enable_index=-1)
        self._kernel = kernel
        self._verdict = verdict
        self.pfn: int | None = None
        self.page: Object | None = None
        self.vma: Object | None = None
        self.task: Object | None = None
        self.buffer = dict(verdict.get("buffer") or {})
        self.notes: list[str] = []  # why something could not be found
        pfn = verdict.get("pfn")
        if isinstance(pfn, int) and 0 <= pfn < kernel.vmemmap.pages:
            self.pfn = pfn
            self.page = Object(self.program, "struct page *", kernel.vmemmap.address(pfn))
            self._find_owner()
            self._find_buffer(pfn)

    def names(self) -> dict[str, Any]:
        """Name to value, for the prompt."""
        return {
            "page": self.page,
            "pfn": self.pfn,
            "vma": self.vma,
            "task": self.task,
            "buffer": _space(self.buffer or None),
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
            "buffer": str(self.buffer.get("text") or _short(self.buffer or None)),
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

    def _find_buffer(self, pfn: int) -> None:
        """What the framework's books say of the buffer that lists the page."""
        try:
            media = Media.of(self._kernel)
            found = next((each for each in media.buffers() if (each.pfns == pfn).any()), None)
            if found is None:
                return
            self.buffer |= {
                name: getattr(found, name) for name in ("framework", "index", "memory", "userptr")
            }
            self.buffer |= {"length": found.length, "state": found.state_name, "text": found.text()}
            self.buffer["struct"] = None  # where its module has no BTF
            name = _BUFFERS.get(found.framework, "")
            self.buffer["struct"] = Object(self.program, f"struct {name} *", found.address)
        except LookupError:
            pass
        except Exception as error:
            self.notes.append(f"the buffer could not be followed: {error}"[:200])

    def _views(self) -> list[Json]:
        evidence = self._verdict.get("evidence") or {}
        found = [evidence.get(name) for name in ("now", "before", "after")]
        return [view for view in found if view and any(kind in view["kind"] for kind in OWNED_KINDS)]


def _module_finder(kernel: Kernel) -> Callable[..., Type | None]:
    """A drgn type finder for what only modules have."""
    known: dict[str, BtfTypes] = {}

    def find(program: Program, kinds: Any, name: str, filename: str | None) -> Type | None:
        for module in _MODULES:
            split = module_types(kernel, module)
            if split is not None and split.own(name):
                types = known.setdefault(module, BtfTypes(program, split))
                return types.find(program, kinds, name, filename)
        return None

    return find


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
