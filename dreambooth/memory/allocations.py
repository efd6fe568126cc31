"""Bytes of a virtual GPU: what is allocated, by category, and the most that was."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

BLOCK = 512  # torch's caching allocator rounds sizes up to multiples of this many bytes


class Storage(Protocol):
    """A torch.UntypedStorage, or what stands for one."""

    @property
    def _cdata(self) -> int: ...

    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Peak:
    """The highest sum of a phase: bytes, and which of them belong to which category; the operator that reached it."""

    bytes: int
    categories: dict[str, int]
    operator: str


class Allocations:
    """Storages that are alive. A new one belongs to the category ``phase``, until :meth:`assign` gives it another."""

    def __init__(self) -> None:
        self.phase = ""
        self.total = self.highest = 0
        self.peaks: dict[str, Peak] = {}
        self._live: dict[int, tuple[int, str, Any]] = {}  # by the storage's address
        self._by_category: Counter[str] = Counter()

    def add(self, storage: Storage, category: str = "", operator: object = "") -> None:
        """Count a storage from now until it is freed; one that is counted already is ignored."""
        address = storage._cdata
        if address in self._live:
            return
        size, category = -(-storage.nbytes() // BLOCK) * BLOCK, category or self.phase
        self._live[address] = size, category, weakref.ref(storage, lambda _: self._free(address))
        self._by_category[category] += size
        self.total += size
        self.highest = max(self.highest, self.total)
        self._note_peak(operator)

    def assign(self, storage: Storage, category: str) -> None:
        """Move a storage to ``category``."""
        self.add(storage, category)
        size, previous, reference = self._live[storage._cdata]
        self._live[storage._cdata] = size, category, reference
        self._by_category[previous] -= size
        self._by_category[category] += size

    def category_of(self, storage: Storage) -> str:
        """Of a storage that is counted; otherwise ""."""
        return self._live[storage._cdata][1] if storage._cdata in self._live else ""

    def start(self, phase: str) -> None:
        """What is allocated from now on counts to ``phase``."""
        self.phase = phase
        self._note_peak("")

    def forget_peaks(self, *phases: str) -> None:
        for phase in phases:
            self.peaks.pop(phase, None)

    def reset_highest(self) -> None:
        self.highest = self.total

    def _note_peak(self, operator: object) -> None:
        if self.phase not in self.peaks or self.total > self.peaks[self.phase].bytes:
            used = {category: size for category, size in self._by_category.items() if size}
            self.peaks[self.phase] = Peak(self.total, used, str(operator))

    def _free(self, address: int) -> None:
        size, category, _ = self._live.pop(address)
        self._by_category[category] -= size
        self.total -= size
