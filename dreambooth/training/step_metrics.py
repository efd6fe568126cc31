"""Metrics of a step, read without synchronizing the device."""

from __future__ import annotations

import torch

from dreambooth.training.objective import Losses


class StepMetrics:
    """Losses and gradient norm of one step.

    On a GPU they are copied to the CPU right after their own step's kernels. ``tensor.item()`` would wait for all
    kernels launched since then, and the GPU would idle until Python launches more.
    """

    def __init__(self, losses: Losses, norm: torch.Tensor) -> None:
        scalars = [norm, losses.instance] if losses.prior is None else [norm, losses.instance, losses.prior]
        self._values, self._copied = torch.stack(scalars), None
        if self._values.is_cuda:
            stream = torch.cuda.current_stream(self._values.device)
            self._values = self._values.to("cpu", non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(stream)

    def read(self) -> tuple[float, float, float | None]:
        """Gradient norm, instance loss, prior loss (None without class images)."""
        if self._copied:
            self._copied.synchronize()
        norm, loss, *prior = self._values.tolist()
        return norm, loss, prior[0] if prior else None
