"""Exponential moving average (EMA) of the denoiser's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreambooth.training.noise import generator_on
from dreambooth.training.stochastic_rounding import stochastic_round


class EMA:
    """EMA in float32 or bfloat16, on the weights' device or, to save GPU memory, on the CPU.

    At a decay of 0.9999 an update is far below bfloat16's 8 bits. It is rounded stochastically (see
    stochastic_rounding.py), so that no update is lost on average; the random numbers are a function of seed and update.

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
    ) -> None:
        self.decay, self.updates, self.seed = decay, 0, seed
        self._parameters = list(parameters)
        self.shadow_params = [
            torch.empty_like(p, dtype=dtype, device="cpu" if on_cpu else p.device) for p in self._parameters
        ]
        self.load(self._parameters, 0)

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.shadow_params[0].dtype == torch.bfloat16:
            self._update_bf16(1 - decay)
            return
        pairs = zip(self._parameters, self.shadow_params, strict=True)
        torch._foreach_lerp_(self.shadow_params, [p.to(shadow.device, torch.float32) for p, shadow in pairs], 1 - decay)

    def _update_bf16(self, weight: float) -> None:
        """One parameter at a time, on the device of the weights: a CPU is slow at so many random numbers."""
        generator = generator_on(self._parameters[0].device, self.seed, "ema", self.updates)
        for parameter, shadow in zip(self._parameters, self.shadow_params, strict=True):
            exact = shadow.to(parameter.device, torch.float32).lerp_(parameter.float(), weight)
            is_local = shadow.device == parameter.device
            rounded = shadow if is_local else torch.empty_like(parameter, dtype=shadow.dtype)
            stochastic_round(rounded, exact, generator)
            if not is_local:
                shadow.copy_(rounded)

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
