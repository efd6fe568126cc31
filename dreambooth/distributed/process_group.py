"""Several processes that train together: which one this is, and how they agree.

``accelerate launch`` and ``torchrun`` start the same command once for each GPU and say in the environment who is who.
Each process takes its share of a step's batches; gradients and losses are summed, so that all hold the same weights at
any time. Only the first one, the main process, writes files, draws, and listens to people.

There are two groups. Gradients travel by the device's own (NCCL), which breaks off when a process keeps the others
waiting. All waiting and agreeing therefore goes by a second one (gloo), whose patience is that of people.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(days=30)
_AT_ONCE = 64 << 20  # bytes of gradients that travel together
_OTHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass
class ProcessGroup:
    """``rank`` of ``size`` processes, ``local_rank`` on this machine. Alone, all of this is free and does nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _agreeing: Any = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
        """As the launcher says; alone when there is none. Some clusters set one of these without the others."""
        if not all(environment.get(key) for key in ("WORLD_SIZE", "RANK", "MASTER_ADDR")):
            return cls()
        size, rank = int(environment["WORLD_SIZE"]), int(environment["RANK"])
        return cls(rank, size, int(environment.get("LOCAL_RANK", rank))) if size > 1 else cls()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def problems(self, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Why these processes could not train together."""
        asked = [name for key, name in _OTHERS.items() if environment.get(key, "").lower() in ("true", "1", "yes")]
        return [
            f"accelerate is set up for {name}, which splits the model itself; here each process holds all of it: "
            "launch with --multi_gpu in its place."
            for name in asked
            if self.size > 1
        ]

    def device(self) -> torch.device | None:
        """This process's own GPU; None: whatever is best."""
        import torch

        if self.size == 1 or not torch.cuda.is_available():
            return None
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextlib.contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Meet the others; inside, all below may be used."""
        if self.size == 1:
            yield
            return
        import torch.distributed as dist

        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=self.rank, world_size=self.size)
        self._agreeing = dist.new_group(backend="gloo", timeout=_PATIENCE)
        try:
            yield
            self.wait()  # the last file is written: now all may leave
        finally:
            self._agreeing = None
            dist.destroy_process_group()

    def wait(self) -> None:
        """Until all have come here."""
        self.any(False)

    def any(self, wish: bool) -> bool:
        """Whether one of them says so: the same answer for all."""
        return bool(self._maximum(int(wish)))

    def same(self, number: int) -> int:
        """The main process's number (not negative) in all of them."""
        return self._maximum(number if self.is_main else 0)

    def agrees(self, number: int) -> bool:
        """Whether all came with the same number (not negative)."""
        return not self.any(self.same(number) != number)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through this alone, then the others, who find what it has left in the cache."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def all_reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """In place. A parameter that got no gradient in any process is left without one."""
        if self.size == 1:
            return
        import torch

        got = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        self._reduce(got, group=self._agreeing)
        there = [p for p, n in zip(parameters, got.tolist(), strict=True) if n]
        for parameter in there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for some in _portions([p.grad for p in there if p.grad is not None]):
            whole = torch.cat([grad.reshape(-1) for grad in some])
            self._reduce(whole)
            for grad, part in zip(some, whole.split([grad.numel() for grad in some]), strict=True):
                grad.copy_(part.view_as(grad))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """In place, and returned."""
        if self.size > 1:
            self._reduce(values)
        return values

    def _maximum(self, number: int) -> int:
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        shared = torch.tensor(number, dtype=torch.int64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self._agreeing)
        return int(shared)

    @staticmethod
    def _reduce(tensor: torch.Tensor, group: Any = None) -> None:
        import torch.distributed as dist

        dist.all_reduce(tensor, group=group)


SINGLE_PROCESS = ProcessGroup()


def _portions(grads: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours of one dtype, few enough to be copied together."""
    portion: list[torch.Tensor] = []
    size = 0
    for grad in grads:
        n = grad.numel() * grad.element_size()
        if portion and (size + n > _AT_ONCE or grad.dtype != portion[0].dtype):
            yield portion
            portion, size = [], 0
        portion.append(grad)
        size += n
    if portion:
        yield portion
