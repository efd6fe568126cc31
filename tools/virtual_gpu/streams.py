"""Streams of a virtual GPU: what a stream, or Python, uses must have been waited for.

All work is done at once, in the order of Python; what is checked is that CUDA would have to keep that order. Each
stream counts its operations and knows how many of every other stream's are done before its own next one (a vector
clock); waiting for an event or a stream raises that knowledge.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.memory.virtual_cuda import DEVICE

_all = weakref.WeakSet["Stream"]()


class Stream:
    """``done``: of each other stream, the operations that are done before the next one of this stream."""

    device, device_index = DEVICE, 0

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.count, self.done = 0, dict[Stream, int]()
        _all.add(self)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(Event().recorded(stream))

    def wait_event(self, event: Event) -> None:
        self.learn(event.done)

    def record_event(self, event: Event | None = None) -> Event:
        return (event or Event()).recorded(self)

    def synchronize(self) -> None:
        HOST.wait_stream(self)

    def learn(self, done: dict[Stream, int]) -> None:
        for stream, count in done.items():
            self.done[stream] = max(self.done.get(stream, 0), count)

    def waits_for(self, stream: Stream, count: int) -> bool:
        """Whether operation ``count`` of another stream is done before the next one of this."""
        return stream is self or self.done.get(stream, 0) >= count


class Event:
    def __init__(self, *args: object, **kwargs: object) -> None:
        self.done = dict[Stream, int]()

    def recorded(self, stream: Stream) -> Event:
        self.done = {**stream.done, stream: stream.count}
        return self

    def record(self, stream: Stream | None = None) -> None:
        self.recorded(stream or current_stream())

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def synchronize(self) -> None:
        HOST.learn(self.done)

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        return 0.0


HOST = Stream()  # Python, in the order of its lines
DEFAULT = Stream()
_current = threading.local()


def current_stream(device: object = None) -> Stream:
    return getattr(_current, "stream", DEFAULT)


class stream:
    """torch.cuda.stream: in the block, operations are those of this stream."""

    def __init__(self, chosen: Stream | None) -> None:
        self._chosen = chosen or current_stream()

    def __enter__(self) -> None:
        self._before, _current.stream = current_stream(), self._chosen

    def __exit__(self, *args: object) -> None:
        _current.stream = self._before


def synchronize(device: object = None) -> None:
    """Python waits for all streams."""
    for each in list(_all):
        HOST.wait_stream(each)


@dataclass
class _Uses:
    """Of a storage: the last operation of each stream that read it, and the last that wrote it."""

    owner: Stream | None  # that of the allocation, in whose order its memory is used again; None in main memory
    written: tuple[Stream, int]
    reads: dict[Stream, int] = field(default_factory=dict)
    finalizer: Any = None


class StreamRules:
    """RuntimeError for a use that was not waited for, in the next operation after memory was freed too early."""

    def __init__(self) -> None:
        self._uses: dict[int, _Uses] = {}  # by the storage's address
        self._freed_early = ""

    @property
    def is_on(self) -> bool:
        """Whether a second stream exists."""
        return len(_all) > 2

    def use(
        self, name: str, stream: Stream, reads: Sequence[torch.Tensor], writes: Sequence[torch.Tensor],
        on_device: bool = True,
    ) -> None:  # fmt: skip
        """An operation of ``stream``. ``on_device``: that its results are new memory of the device."""
        if self._freed_early:
            message, self._freed_early = self._freed_early, ""
            raise RuntimeError(message)
        if stream is not HOST:
            stream.count += 1
            stream.learn({**HOST.done})
        for tensor in (*reads, *writes):
            uses = self._uses.get(tensor.untyped_storage()._cdata)
            if uses and not stream.waits_for(*uses.written):
                raise RuntimeError(f"{name} uses a tensor that another stream writes, without waiting for it")
        for tensor in writes:
            self._write(name, stream, tensor, on_device)
        for tensor in reads:
            self._read(stream, tensor)

    def allocate(self, stream: Stream, tensor: torch.Tensor) -> None:
        """New memory, which the operations of ``stream`` until now may have used before."""
        self._uses[tensor.untyped_storage()._cdata] = self._new(tensor, stream, stream)

    def _write(self, name: str, stream: Stream, tensor: torch.Tensor, on_device: bool) -> None:
        address = tensor.untyped_storage()._cdata
        uses = self._uses.get(address)
        if uses is None:
            if stream is not HOST:
                self._uses[address] = self._new(tensor, stream if on_device else None, stream)
            return
        if any(not stream.waits_for(reader, count) for reader, count in uses.reads.items()):
            raise RuntimeError(f"{name} writes a tensor that another stream reads, without waiting for it")
        uses.written, uses.reads = (stream, stream.count), {}

    def _read(self, stream: Stream, tensor: torch.Tensor) -> None:
        address = tensor.untyped_storage()._cdata
        if address not in self._uses and stream is not HOST:
            self._uses[address] = self._new(tensor, None, HOST)
        if uses := self._uses.get(address):
            uses.reads[stream] = stream.count

    def _new(self, tensor: torch.Tensor, owner: Stream | None, writer: Stream) -> _Uses:
        storage = tensor.untyped_storage()
        address = storage._cdata
        uses = _Uses(owner, (writer, writer.count))
        uses.finalizer = weakref.ref(storage, lambda _: self._free(address))
        return uses

    def _free(self, address: int) -> None:
        uses = self._uses.pop(address, None)
        if uses is None or uses.owner is None:
            return
        last = {**uses.reads, uses.written[0]: uses.written[1]}
        late = [s for s, n in last.items() if not (uses.owner.waits_for(s, n) or HOST.waits_for(s, n))]
        if any(each is not HOST for each in late):
            self._freed_early = "memory was freed while another stream uses it: its own stream must wait for that one"
