"""Exponential moving average (EMA) of the denoiser's weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from dreambooth.training.chunks import CHUNK, flat, in_chunks, views
from dreambooth.training.noise import generator_on
from dreambooth.training.stochastic_rounding import stochastic_round


class EMA:
    """EMA in float32 or bfloat16, on the weights' device or, to save GPU memory, on the CPU.

    At a decay of 0.9999 an update is far below bfloat16's 8 bits. It is rounded stochastically (see
    stochastic_rounding.py), so that no update is lost on average; the random numbers are a function of seed and update.

    Weights of another dtype or device are converted a chunk at a time, which also makes one copy per chunk.

    With ``every`` above 1, only every so many steps count, with the decay of all of them: decay ** every.

    The decay warms up as (1 + n) / (10 + n), so that the average of a short run is not dominated by its first weights
    (TensorFlow's ExponentialMovingAverage).
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        decay: float,
        on_cpu: bool = False,
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        self.decay, self.updates, self.seed, self.every = decay, 0, seed, every
        self.chunk = CHUNK
        self._pinned: torch.Tensor | None = None
        self._parameters = list(parameters)
        self.shadow_params = [
            torch.empty_like(p, dtype=dtype, device="cpu" if on_cpu else p.device) for p in self._parameters
        ]
        self.load(self._parameters, 0)

    @torch.no_grad()
    def update(self) -> None:
        """Call it after each step. ``updates`` counts the calls."""
        is_due = self.is_due()
        self.updates += 1
        if not is_due:
            return
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)) ** self.every
        on_devices = defaultdict[tuple[torch.device, torch.device], list[int]](list)  # some may be in main memory
        for i, (shadow, parameter) in enumerate(zip(self.shadow_params, self._parameters, strict=True)):
            on_devices[shadow.device, parameter.device].append(i)
        for number, indices in enumerate(on_devices.values()):
            shadows = [self.shadow_params[i] for i in indices]
            self._update(shadows, [self._parameters[i] for i in indices], weight, number)

    def is_due(self) -> bool:
        """Whether the next :meth:`update` reads the weights."""
        return (self.updates + 1) % self.every == 0

    def _update(self, shadows: list[torch.Tensor], weights: Sequence[torch.Tensor], weight: float, number: int) -> None:
        """Of tensors on one device. ``number``: 0, or that of further devices."""
        first, shadow = weights[0], shadows[0]
        if shadow.dtype == first.dtype == torch.float32 and shadow.device == first.device:
            torch._foreach_lerp_(shadows, list(weights), weight)
            return
        generator = generator_on(first.device, self.seed, "ema", self.updates, *([number] if number else []))
        for chunk in in_chunks(weights, self.chunk):
            of_chunk = [part.of(shadows) for part in chunk], [part.of(weights) for part in chunk]
            if shadow.dtype == torch.bfloat16:
                self._update_bf16(*of_chunk, weight, generator)
            else:
                self._update_fp32(*of_chunk, weight)

    def _update_fp32(self, shadows: list[torch.Tensor], weights: list[torch.Tensor], weight: float) -> None:
        """On the EMA's device."""
        moved = self._moved(flat(weights), shadows[0].device).float()
        torch._foreach_lerp_(shadows, views(moved, shadows), weight)

    def _update_bf16(
        self, shadows: list[torch.Tensor], weights: list[torch.Tensor], weight: float, generator: torch.Generator
    ) -> None:
        """On the device of the weights: a CPU is slow at so many random numbers."""
        exact = flat(shadows).to(weights[0].device).float()
        torch._foreach_lerp_(views(exact, shadows), views(flat(weights).float(), shadows), weight)
        stochastic_round(exact, exact, generator)
        torch._foreach_copy_(shadows, views(self._moved(exact.to(shadows[0].dtype), shadows[0].device), shadows))

    def _moved(self, values: torch.Tensor, device: torch.device) -> torch.Tensor:
        """``values`` on ``device``: from a GPU to the CPU through a buffer in pinned memory, valid until the next call.

        A copy into pageable memory is several times slower.
        """
        if values.device.type != "cuda" or device.type != "cpu":
            return values.to(device)
        if self._pinned is None or self._pinned.numel() < values.numel():
            self._pinned = torch.empty(values.numel(), dtype=values.dtype, pin_memory=True)
        return self._pinned[: values.numel()].copy_(values)

    def swap(self) -> None:
        """Exchange the EMA and the trained weights; a second call restores both bit for bit.

        Only storage is exchanged: on one device nothing is copied and nothing can fail halfway. From the CPU, one
        parameter at a time is moved; if GPU memory runs out, those that were exchanged are restored.
        """
        swapped = 0
        try:
            for i in range(len(self._parameters)):
                self._swap_one(i)
                swapped += 1
        except BaseException:
            for i in range(swapped):
                self._swap_one(i)
            raise

    def _swap_one(self, i: int) -> None:
        parameter, shadow = self._parameters[i], self.shadow_params[i]
        weights = parameter.data
        parameter.data, self.shadow_params[i] = shadow.to(weights.device), weights.to(shadow.device)

    @torch.no_grad()
    def load(self, weights: Sequence[torch.Tensor], updates: int) -> None:
        for shadow, saved in zip(self.shadow_params, weights, strict=True):
            shadow.copy_(saved)
        self.updates = updates
