"""Adapters of Stable Diffusion: which modules get one, and whose an adapter file is.

The modules are the same ones as in kohya's trainer, all supported by A1111.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from dreambooth.models.adapter_layers import LayerKinds
from dreambooth.models.family import Family
from dreambooth.models.layout import Shapes
from dreambooth.models.sd.adapter_names import SDXL_TITLE, AdapterSizes, common_names, title_of
from dreambooth.models.sd.ordered_adapters import is_ordered, ordered_keys

_ATTENTION_BLOCK = "Transformer2DModel"
_CONVOLUTION_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_CONVOLUTION_PATHS = ("resnets.", "samplers.")  # the same by their attributes in the UNet


class StableDiffusionAdapters(Family):
    """The part of :class:`dreambooth.models.sd.stable_diffusion.StableDiffusion` that is about adapters."""

    layer_kinds = LayerKinds(("attn1", "attn2", "self_attn"), ("ff", "mlp"))
    adapter_version: str  # the start of ss_base_model_version in adapter files

    def possible_adapter_targets(
        self, component: str, module: nn.Module, convolutions: bool = False
    ) -> dict[str, nn.Linear | nn.Conv2d]:
        return _unet_targets(module, convolutions) if component == "unet" else _text_encoder_targets(module)

    def needs_convolutions(self, name: str) -> bool:
        return any(part in name for part in _CONVOLUTION_PATHS)

    @property
    def adapter_metadata(self) -> dict[str, str]:
        """A1111 filters its list of LoRAs by these two keys."""
        return {**super().adapter_metadata, "ss_v2": str(self.base_model_version.startswith("sd_v2"))}

    def made_adapter(self, version: str, sizes: AdapterSizes) -> bool:
        return version.startswith(self.adapter_version) if version else title_of(sizes) == self.adapter_title

    def common_adapter_names(self, files: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        return common_names([list(file) for file in files], is_sdxl=self.adapter_title == SDXL_TITLE)

    def is_adapter_file(self, shapes: Shapes) -> bool:
        return is_ordered(shapes)

    def adapter_keys(self, path: Path, shapes: Shapes) -> dict[str, tuple[str, str]]:
        return ordered_keys(path, shapes)


def _unet_targets(unet: nn.Module, convolutions: bool) -> dict[str, nn.Linear | nn.Conv2d]:
    """Linear layers and 1x1 convolutions of transformer blocks, projections included.

    With ``convolutions`` (LoCon) also all layers of resnet blocks (both 3x3, the 1x1 of the shortcut, the projection of
    the time embedding) and the 3x3 of down- and upsamplers.
    """
    kinds = (_ATTENTION_BLOCK, *_CONVOLUTION_BLOCKS) if convolutions else (_ATTENTION_BLOCK,)
    blocks = tuple(f"{path}." for path, m in unet.named_modules() if type(m).__name__ in kinds)
    return {
        path: m
        for path, m in unet.named_modules()
        if path.startswith(blocks) and (isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1))
    }


def _text_encoder_targets(text_encoder: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The attention projections and the two layers of each MLP."""
    inside = (["self_attn"], ["mlp"])
    return {
        path: m
        for path, m in text_encoder.named_modules()
        if isinstance(m, nn.Linear) and path.split(".")[-2:-1] in inside
    }
