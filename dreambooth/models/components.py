"""The parts of a model: their roles, and where their weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Role = Literal["denoiser", "text_encoder", "vae"]
DENOISER: Role = "denoiser"
TEXT_ENCODER: Role = "text_encoder"
VAE: Role = "vae"

# Takes a parameter of a module, by its name and with its values, to store it in another form; False leaves it.
Quantize = Callable[[nn.Module, str, torch.Tensor], bool]

EMA_FOLDER = "ema_"  # the prefix of the denoiser's folder name for its EMA weights


def _unchanged(name: str) -> str:
    return name


@dataclass(frozen=True)
class Component:
    """One part of a model.

    ``in_checkpoint``: whether checkpoints of the family contain it; hosts read the others from files of their own.
    ``disk_name`` translates a parameter's name in the module to that in the weight file, where libraries changed it.
    """

    name: str  # of its folder in working/, as diffusers names it
    role: Role
    title: str  # in messages
    prefix: str  # of its tensors in a single file
    weights: str = "diffusion_pytorch_model.safetensors"
    tokenizer: str = ""  # the folder of a text encoder's tokenizer
    in_checkpoint: bool = True
    disk_name: Callable[[str], str] = _unchanged

    @property
    def ema_name(self) -> str:
        """The folder of its EMA weights."""
        return EMA_FOLDER + self.name

    def disk_shapes(self, module: nn.Module) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by their names on disk."""
        return {self.disk_name(name): tuple(p.shape) for name, p in module.named_parameters()}

    def load_parameters(
        self,
        module: nn.Module,
        get_tensor: Callable[[str], torch.Tensor],
        dtype: torch.dtype,
        quantize: Quantize | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Set the parameters of a meta module; ``get_tensor`` returns them by their names on disk.

        ``quantize`` is called with each of them first. Each is copied to ``device`` when it is read, so that main
        memory holds one at a time.
        """
        for name, _ in list(module.named_parameters()):
            tensor = get_tensor(self.disk_name(name))
            if quantize and quantize(module, name, tensor):
                continue
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor.to(device).to(dtype), requires_grad=False))
