"""Diffusion processes: noisy latents, the target of the prediction, training timesteps, and the samplers that match.

A family has one: DDPM for Stable Diffusion, rectified flow for flow-matching transformers. Latents and noise are
(B, C, h, w), timesteps (B,); factors that multiply them are (B, 1, 1, 1).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dreambooth.errors import UserError
from dreambooth.models.timestep_shift import linear_mu, shift_sigmas
from dreambooth.settings.objective import Objective
from dreambooth.settings.results import SAMPLERS

FLOW_PREDICTION = "flow_prediction"  # as diffusers' samplers name it
# Sampler as the setting names it -> diffusers' scheduler for rectified flow.
_FLOW_SCHEDULERS = {
    "EulerDiscrete": "FlowMatchEulerDiscreteScheduler",
    "DPMSolverMultistep": "DPMSolverMultistepScheduler",
    "UniPCMultistep": "UniPCMultistepScheduler",
}
FLOW_SAMPLERS = tuple(_FLOW_SCHEDULERS)


class Process:
    """The interface of all processes. Which settings only one of them has: settings/objective.py."""

    prediction_type: str

    def __init__(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu", patch_size: int = 1) -> None:
        """``scheduler``: the model's scheduler_config.json; ``patch_size``: latent pixels per side of a token."""
        self.device, self.patch_size = device, patch_size
        self.num_timesteps: int = scheduler.get("num_train_timesteps", 1000)
        self._config = {key: value for key, value in scheduler.items() if not key.startswith("_")}

    def alphas_sigmas(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of latents and noise in the noisy latents, both (B, 1, 1, 1)."""
        raise NotImplementedError

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noisy latents, alpha_t x_0 + sigma_t noise."""
        alphas, sigmas = self.alphas_sigmas(t)
        return torch.addcmul(alphas * latents, sigmas, noise)

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, (B,)."""
        alphas, sigmas = self.alphas_sigmas(t)
        return (alphas / sigmas).square().flatten()

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Target of the prediction."""
        raise NotImplementedError

    def x0_and_noise(
        self, model_output: torch.Tensor, noisy_latents: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents and noise that correspond to a model output: the inverse of :meth:`target`."""
        raise NotImplementedError

    def sample_timesteps(
        self, n: int, generator: torch.Generator, settings: Objective, n_tokens: int = 0
    ) -> torch.Tensor:
        """``n`` timesteps of a training batch, (n,) on the CPU, from min_timestep on and below max_timestep.

        One call takes all random numbers from ``generator``: n uniform or n normal ones, as timestep_sampling says.
        ``n_tokens``: see :meth:`count_tokens`.
        """
        raise NotImplementedError

    def evenly_spaced_timesteps(self, n: int) -> torch.Tensor:
        """Timesteps in the middles of ``n`` equal parts of the process, (n,) on the CPU."""
        return (torch.arange(n) * 2 + 1) * self.num_timesteps // (2 * n)

    def count_tokens(self, shape: torch.Size) -> int:
        """Number of tokens of an image, from the shape of its latents."""
        return (shape[-2] // self.patch_size) * (shape[-1] // self.patch_size)

    def loss_weight(self, t: torch.Tensor, scheme: str) -> torch.Tensor:
        """Weight of the loss of each image, (B,), by the setting flow_loss_weighting."""
        raise NotImplementedError

    @property
    def samplers(self) -> tuple[str, ...]:
        """The samplers of this process, as the setting names them, that the installed diffusers has."""
        raise NotImplementedError

    def sampler(self, name: str, steps: int, n_tokens: int = 0) -> Any:
        """A diffusers scheduler with the timesteps of ``steps`` steps. UserError if it is not in :attr:`samplers`."""
        if name not in self.samplers:
            raise UserError(f"scheduler = {name}: not available for this model. Use {' or '.join(self.samplers)}.")
        return self._make_sampler(name, steps, n_tokens)

    def _make_sampler(self, name: str, steps: int, n_tokens: int) -> Any:
        raise NotImplementedError

    def _timestep_range(self, settings: Objective) -> tuple[int, int]:
        """The first timestep to sample, and the one after the last."""
        return settings.min_timestep, min(settings.max_timestep, self.num_timesteps)


class DDPM(Process):
    """The discrete variance-preserving process (arXiv:2006.11239). It predicts noise or velocity; ``t`` is int64."""

    def __init__(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        super().__init__(scheduler, device)
        self.prediction_type = scheduler.get("prediction_type", "epsilon")
        alphas_cumprod = compute_alphas_cumprod(scheduler)
        self._alphas = alphas_cumprod.sqrt().to(device)[:, None, None, None]
        self._sigmas = (1 - alphas_cumprod).sqrt().to(device)[:, None, None, None]

    def alphas_sigmas(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), where a_t is the cumulative product of the alphas."""
        return self._alphas[t], self._sigmas[t]

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise, or for v-prediction (arXiv:2202.00512) the velocity."""
        if self.prediction_type == "v_prediction":
            return self._alphas[t] * noise - self._sigmas[t] * latents
        return noise

    def x0_and_noise(
        self, model_output: torch.Tensor, noisy_latents: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From predicted noise, the clean latents are undefined at zero terminal SNR."""
        alphas, sigmas = self.alphas_sigmas(t)
        if self.prediction_type == "v_prediction":
            return alphas * noisy_latents - sigmas * model_output, alphas * model_output + sigmas * noisy_latents
        return (noisy_latents - sigmas * model_output) / alphas, model_output

    def sample_timesteps(
        self, n: int, generator: torch.Generator, settings: Objective, n_tokens: int = 0
    ) -> torch.Tensor:
        """Uniform sampling without shift is one torch.randint; otherwise fractions of the range are rounded down."""
        first, end = self._timestep_range(settings)
        if settings.timestep_sampling == "uniform" and settings.timestep_shift == 1:
            return torch.randint(first, end, (n,), generator=generator)
        fraction = shift_sigmas(sample_density(n, generator, settings), settings.timestep_shift)
        return (first + (fraction * (end - first)).long()).clamp(max=end - 1)

    @property
    def samplers(self) -> tuple[str, ...]:
        return SAMPLERS

    def _make_sampler(self, name: str, steps: int, n_tokens: int) -> Any:
        import diffusers

        scheduler = getattr(diffusers, f"{name}Scheduler").from_config(self._config)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler


class RectifiedFlow(Process):
    """Straight lines between latents and noise (arXiv:2209.03003): x_t = (1 - sigma) x_0 + sigma noise.

    It predicts the velocity noise - x_0. ``t`` is sigma * num_timesteps, float32, as diffusers'
    FlowMatchEulerDiscreteScheduler has it.
    """

    prediction_type = FLOW_PREDICTION

    def __init__(
        self,
        scheduler: Mapping[str, Any],
        device: torch.device | str = "cpu",
        patch_size: int = 1,
        sampler_mu: Callable[[int, int], float] | None = None,
    ) -> None:
        """``sampler_mu``: mu of a sampler whose shift depends on the resolution, by numbers of tokens and steps, such
        as :func:`timestep_shift.empirical_mu`. None: :func:`timestep_shift.linear_mu`, with which timesteps are
        trained.
        """
        super().__init__(scheduler, device, patch_size)
        self._sampler_mu = sampler_mu or (lambda n_tokens, steps: linear_mu(self._config, n_tokens))

    def alphas_sigmas(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """1 - sigma and sigma."""
        sigmas = (t / self.num_timesteps)[:, None, None, None]
        return 1 - sigmas, sigmas

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity, which does not depend on ``t``."""
        return noise - latents

    def x0_and_noise(
        self, model_output: torch.Tensor, noisy_latents: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        alphas, sigmas = self.alphas_sigmas(t)
        return noisy_latents - sigmas * model_output, noisy_latents + alphas * model_output

    def sample_timesteps(
        self, n: int, generator: torch.Generator, settings: Objective, n_tokens: int = 0
    ) -> torch.Tensor:
        """Sigmas of the chosen density, shifted, then scaled to the range of timesteps.

        At least 1, the smallest timestep of diffusers' scheduler: some loss weights are infinite at 0.
        """
        first, end = self._timestep_range(settings)
        shift = settings.timestep_shift
        if settings.resolution_shift:
            shift *= math.exp(linear_mu(self._config, n_tokens))
        sigmas = shift_sigmas(sample_density(n, generator, settings), shift)
        return (first + sigmas * (end - first)).clamp(min=1)

    def evenly_spaced_timesteps(self, n: int) -> torch.Tensor:
        return super().evenly_spaced_timesteps(n).float()

    def loss_weight(self, t: torch.Tensor, scheme: str) -> torch.Tensor:
        """As diffusers' compute_loss_weighting_for_sd3 (arXiv:2403.03206, 3.1): sigma_sqrt is sigma^-2."""
        sigmas = t / self.num_timesteps
        if scheme == "sigma_sqrt":
            return sigmas**-2.0
        if scheme == "cosmap":
            return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
        return torch.ones_like(sigmas)

    @property
    def samplers(self) -> tuple[str, ...]:
        """The multistep samplers know rectified flow from diffusers 0.32 on."""
        return tuple(
            name for name in _FLOW_SCHEDULERS if name == "EulerDiscrete" or "use_flow_sigmas" in _parameters(name)
        )

    def _make_sampler(self, name: str, steps: int, n_tokens: int) -> Any:
        """With a static shift, also where it depends on the resolution."""
        import diffusers

        is_dynamic = self._config.get("use_dynamic_shifting", False)
        shift = math.exp(self._sampler_mu(n_tokens, steps)) if is_dynamic else self._config.get("shift", 1.0)
        values = self._config | {
            "shift": shift, "flow_shift": shift, "use_dynamic_shifting": False, "use_flow_sigmas": True,
            "prediction_type": FLOW_PREDICTION,
        }  # fmt: skip
        if steps == 1:
            values.pop("shift_terminal", None)  # it stretches the interval between first and last step
        known = {key: value for key, value in values.items() if key in _parameters(name)}
        scheduler = getattr(diffusers, _FLOW_SCHEDULERS[name])(**known)
        if name == "EulerDiscrete":  # by default it would shift its smallest sigma twice
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=self.device)
        else:
            scheduler.set_timesteps(steps, device=self.device)
        return scheduler


def sample_density(n: int, generator: torch.Generator, settings: Objective) -> torch.Tensor:
    """``n`` values between 0 (clean latents) and 1 (pure noise), (n,) float32, of the density timestep_sampling.

    logit_normal and mode are those of Stable Diffusion 3 (arXiv:2403.03206, 3.1); sigmoid is logit-normal with mean 0
    and the deviation sigmoid_scale. The random numbers are one torch.randn for these two, otherwise one torch.rand.
    """
    kind = settings.timestep_sampling
    if kind == "logit_normal":
        return torch.sigmoid(settings.timestep_mean + settings.timestep_std * torch.randn(n, generator=generator))
    if kind == "sigmoid":
        return torch.sigmoid(settings.sigmoid_scale * torch.randn(n, generator=generator))
    u = torch.rand(n, generator=generator)
    if kind == "mode":
        return 1 - u - settings.mode_scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    return u


def compute_alphas_cumprod(scheduler: Mapping[str, Any]) -> torch.Tensor:
    """Cumulative product of the alphas (DDPM, arXiv:2006.11239, eq. 4), (T,) float32.

    ``scheduler``: the model's scheduler_config.json.
    """
    start, end = scheduler.get("beta_start", 0.00085), scheduler.get("beta_end", 0.012)
    steps = scheduler.get("num_train_timesteps", 1000)
    if scheduler.get("beta_schedule", "scaled_linear") == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:  # "scaled_linear": linear in the square root, the schedule of latent diffusion models
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    if scheduler.get("rescale_betas_zero_snr"):
        alphas_cumprod = _rescale_zero_terminal_snr(alphas_cumprod)
    return alphas_cumprod.float()


def _rescale_zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Shifted and scaled to an SNR of zero at the last timestep (arXiv:2305.08891, algorithm 1)."""
    alphas = alphas_cumprod.sqrt()
    first, last = alphas[0].clone(), alphas[-1].clone()
    return ((alphas - last) * first / (first - last)) ** 2


def _parameters(sampler: str) -> Mapping[str, inspect.Parameter]:
    """The parameters that the installed diffusers has for a sampler of rectified flow."""
    import diffusers

    return inspect.signature(getattr(diffusers, _FLOW_SCHEDULERS[sampler]).__init__).parameters
