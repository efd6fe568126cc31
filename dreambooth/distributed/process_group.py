"""The process group of a distributed run: rank, world size, and how the processes synchronize.

``accelerate launch`` and ``torchrun`` start the same command once per GPU and set rank and world size in the
environment. Each process computes its part of a step's batches; gradients and losses are summed over all ranks, so that
every rank holds the same weights at any time. Only the main process (rank 0) writes files, generates images and handles
requests.

There are two torch groups. Gradients are reduced in the device's own (NCCL), which aborts when a rank keeps the others
waiting. Barriers and agreements go through a gloo group with a long timeout, since they may wait for a user.
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

_TIMEOUT = timedelta(days=30)  # of the gloo group: a paused run waits for its user
_BUCKET_BYTES = 64 << 20  # gradients that are reduced in one call
_UNSUPPORTED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass
class ProcessGroup:
    """``rank`` of ``world_size`` processes; ``local_rank`` counts on this machine. No method does anything in a single
    process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    _control_group: Any = None  # gloo

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
        """As the launcher set it; a single process without one. Some clusters set one variable without the others."""
        if not all(environment.get(key) for key in ("WORLD_SIZE", "RANK", "MASTER_ADDR")):
            return cls()
        world_size, rank = int(environment["WORLD_SIZE"]), int(environment["RANK"])
        return cls(rank, world_size, int(environment.get("LOCAL_RANK", rank))) if world_size > 1 else cls()

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0

    def problems(self, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Why these processes can't train together."""
        engines = [
            name for key, name in _UNSUPPORTED.items() if environment.get(key, "").lower() in ("true", "1", "yes")
        ]
        return [
            f"accelerate is configured for {name}, which is not supported: each process holds the whole model. "
            "Launch with --multi_gpu instead."
            for name in engines
            if self.world_size > 1
        ]

    def device(self) -> torch.device | None:
        """The GPU of this rank; None in a single process and on a CPU: the caller chooses."""
        import torch

        if self.world_size == 1 or not torch.cuda.is_available():
            return None
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextlib.contextmanager
    def initialized(self, device: torch.device) -> Iterator[None]:
        """Initialize torch.distributed for the block. All methods below require it."""
        if self.world_size == 1:
            yield
            return
        import torch.distributed as dist

        # torch for Windows has no NCCL; gloo exchanges tensors of GPUs too.
        backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, rank=self.rank, world_size=self.world_size)
        self._control_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        try:
            yield
            self.barrier()  # until the main process has written its last file
        finally:
            self._control_group = None
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank; the same result on all of them."""
        return bool(self._all_reduce_max(int(flag)))

    def broadcast(self, number: int) -> int:
        """The main process's ``number`` (not negative), on all ranks."""
        return self._all_reduce_max(number if self.is_main_process else 0)

    def all_equal(self, number: int) -> bool:
        """Whether all ranks passed the same ``number`` (not negative)."""
        return not self.any(self.broadcast(number) != number)

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the block first, then the others, which find its results in the cache."""
        if not self.is_main_process:
            self.barrier()
        yield
        if self.is_main_process:
            self.barrier()

    def all_reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum gradients over all ranks, in place. A parameter without a gradient on any rank is left without one."""
        if self.world_size == 1:
            return
        import torch

        has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        self._reduce(has_gradient, group=self._control_group)
        reduced = [p for p, n in zip(parameters, has_gradient.tolist(), strict=True) if n]
        for parameter in reduced:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in reduced if p.grad is not None]):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            self._reduce(flat)
            for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(part.view_as(grad))

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum ``values`` over all ranks, in place, and return them."""
        if self.world_size > 1:
            self._reduce(values)
        return values

    def _all_reduce_max(self, number: int) -> int:
        if self.world_size == 1:
            return number
        import torch
        import torch.distributed as dist

        value = torch.tensor(number, dtype=torch.int64)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._control_group)
        return int(value)

    @staticmethod
    def _reduce(tensor: torch.Tensor, group: Any = None) -> None:
        import torch.distributed as dist

        dist.all_reduce(tensor, group=group)


SINGLE_PROCESS = ProcessGroup()


def _buckets(grads: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Consecutive gradients of one dtype, at most _BUCKET_BYTES together unless one alone is larger."""
    bucket: list[torch.Tensor] = []
    size = 0
    for grad in grads:
        n = grad.numel() * grad.element_size()
        if bucket and (size + n > _BUCKET_BYTES or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += n
    if bucket:
        yield bucket
