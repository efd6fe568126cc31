"""How adapter files (LoRA and other kinds) name the modules of a model.

A name is a prefix for the component and the path of the module, in the model's modules or in the original code. kohya's
files have underscores in place of its dots (``lora_unet_blocks_0_attn_to_q``), those of transformers keep them
(``diffusion_model.blocks.0.attn.to_q``). Files are matched to a model by names with underscores, so both are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreambooth.models.components import DENOISER, TEXT_ENCODER, Component

Naming = Literal["modules", "original"]

_KOHYA = "lora_unet"
# What programs put before the names in a denoiser. The first is read by all WebUIs, the last is no prefix.
_DENOISER_PREFIXES = ("diffusion_model", "transformer", "model.diffusion_model", _KOHYA, "lora_transformer",
                      "lycoris", "net", "")  # fmt: skip
_TEXT_ENCODER_STARTS = ("lora_te", "text_encoder", "clip_")


@dataclass(frozen=True)
class AdapterSpelling:
    """The names of a component's modules in adapter files.

    ``prefixes``, ``naming``: all are read; the first of each is written. ``keeps_dots``: names are written with their
    dots, and tensors then with peft's names (see :func:`dreambooth.checkpoints.lora_file.write_lora`). ``part_prefix``:
    the prefix that is written for a module which the original stores in another way (part of a fused tensor, halves
    swapped): it has its name in the modules, and hosts may read that under another prefix only. "": the first prefix.
    ``kohya_naming``: of kohya's trainers, if ``keeps_dots``.
    """

    prefixes: tuple[str, ...] = ()
    naming: tuple[Naming, ...] = ("modules",)
    keeps_dots: bool = False
    part_prefix: str = ""
    kohya_naming: Naming = "original"

    def names(self, module: str, original: str | None) -> tuple[str, ...]:
        """The names of a module; the first is written. The others have underscores.

        ``original``: its path in the original code; None when it has none there, or not as the same matrix.
        """
        paths = [path for path in self._paths(module, original) if path]
        if not paths or not self.prefixes:
            return ()
        first = self.part_prefix if self.part_prefix and original is None else self.prefixes[0]
        written = _joined(first, paths[0])
        prefixes = dict.fromkeys((*self.prefixes, first))
        read = (underscored(_joined(prefix, path)) for path in paths for prefix in prefixes)
        return tuple(dict.fromkeys([written if self.keeps_dots else underscored(written), *read]))

    def original_names(self, original: str) -> tuple[str, ...]:
        """The names in files of a module of the original code, with underscores."""
        reads_original = "original" in self.naming
        return tuple(underscored(_joined(prefix, original)) for prefix in self.prefixes if reads_original)

    def kohya_name(self, module: str, original: str | None) -> str:
        """The name of a module as kohya's trainers write it; "" when they have none for this matrix alone."""
        if not self.keeps_dots:
            return self.names(module, original)[0]
        path = {"modules": module, "original": original}[self.kohya_naming]
        return underscored(_joined(_KOHYA, path)) if path and _KOHYA in self.prefixes else ""

    def _paths(self, module: str, original: str | None) -> list[str | None]:
        return [{"modules": module, "original": original}[naming] for naming in self.naming]


def default_spelling(component: Component) -> AdapterSpelling:
    """That of flow-matching transformers: ``diffusion_model.`` and the original name, which every WebUI reads."""
    if component.role == DENOISER:
        return AdapterSpelling(_DENOISER_PREFIXES, ("original", "modules"), keeps_dots=True)
    if component.role != TEXT_ENCODER:
        return AdapterSpelling()
    number = component.name.removeprefix("text_encoder").removeprefix("_") or "1"
    unnumbered = ("lora_te",) if number == "1" else ()
    return AdapterSpelling((component.name, f"text_encoder_{number}", f"lora_te{number}", *unnumbered), keeps_dots=True)


def is_text_encoder_name(name: str) -> bool:
    """Whether a name in an adapter file is that of a text encoder's module."""
    return name.startswith(_TEXT_ENCODER_STARTS)


def without_prefix(name: str) -> str:
    """The name in an adapter file, with underscores and without the prefix of a denoiser."""
    flat = underscored(name)
    starts = sorted((underscored(prefix) + "_" for prefix in _DENOISER_PREFIXES if prefix), key=len, reverse=True)
    return flat.removeprefix(next((start for start in starts if flat.startswith(start)), ""))


def underscored(name: str) -> str:
    return name.replace(".", "_")


def _joined(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix else path
