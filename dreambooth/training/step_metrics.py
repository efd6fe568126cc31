"""A step's figures, read without making the device wait."""

from __future__ import annotations

import torch

from dreambooth.training.objective import Losses


class StepMetrics:
    """Losses and gradient norm of one step.

    On a GPU they travel to the CPU right behind their own step's work. ``tensor.item()`` would queue behind all that
    was launched since, and the device would then wait for Python to launch more.
    """

    def __init__(self, losses: Losses, norm: torch.Tensor) -> None:
        scalars = [norm, losses.instance] if losses.prior is None else [norm, losses.instance, losses.prior]
        self._values, self._arrived = torch.stack(scalars), None
        if self._values.is_cuda:
            stream = torch.cuda.current_stream(self._values.device)
            self._values = self._values.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(stream)

    def read(self) -> tuple[float, float, float | None]:
        """Norm, instance loss, prior loss (None without class pictures)."""
        if self._arrived:
            self._arrived.synchronize()
        norm, loss, *prior = self._values.tolist()
        return norm, loss, prior[0] if prior else None
