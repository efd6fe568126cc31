"""What a run did on a virtual GPU: kernels launched, synchronizations and copies, each with the line that made it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_PACKAGE = str(Path(__file__).resolve().parents[2] / "dreambooth") + "/"
_OWN = str(Path(__file__).resolve().parent) + "/"


class Place(NamedTuple):
    """The innermost line of the package that led to an operation; ``library``: the line outside of torch, if other."""

    file: str
    function: str
    line: int
    library: str = ""

    @property
    def name(self) -> str:
        """Without line numbers, which change with every edit."""
        return f"{self.file} {self.function}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}" + (f" ({self.library})" if self.library else "")


class DeviceLog:
    """Counters since the last :meth:`clear`. A synchronization is whatever makes Python wait for the GPU."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[Place] = Counter()
        self.copies: Counter[tuple[str, Place]] = Counter()
        self.calls: Counter[str] = Counter()  # of torch.cuda

    def launch(self, operator: str) -> None:
        self.launches[operator] += 1

    def sync(self) -> None:
        self.syncs[caller()] += 1

    def copy(self, to_device: bool, is_async: bool) -> None:
        """A copy between CPU and GPU. A blocking one from the GPU is a synchronization too."""
        place = caller()
        direction = "H2D" if to_device else "D2H"
        self.copies[f"{direction} {'async' if is_async else 'blocking'}", place] += 1
        if not to_device and not is_async:
            self.syncs[place] += 1

    def clear(self) -> None:
        for counter in (self.launches, self.syncs, self.copies, self.calls):
            counter.clear()


def caller() -> Place:
    """The place of the operation that is being dispatched."""
    library = ""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE):
            return Place(path[len(_PACKAGE) :], _function(frame), frame.f_lineno, library)
        if not library and "/torch/" not in path and not path.startswith(_OWN):
            library = f"{Path(path).name}:{frame.f_lineno}"
        frame = frame.f_back
    return Place("", "", 0, library)


def _function(frame: FrameType) -> str:
    """The name of the function, for a comprehension or lambda that of the function around it."""
    caller = frame.f_back
    if frame.f_code.co_name.startswith("<") and caller and caller.f_code.co_filename == frame.f_code.co_filename:
        return _function(caller)
    return frame.f_code.co_name
