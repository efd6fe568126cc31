"""Single files whose tensors have other names than the original code gave them, presented with the original names.

Converters wrote the VAE's attention as diffusers names it (``to_q``, ``query``), wrapped all names in a prefix
(``module.``), left one out (``diffusion_model.``), or stored a text encoder of open_clip with the names that
transformers gives it. WebUIs read few of these spellings, so checkpoints are written with the original names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from dreambooth.models.sd.clip_names import PROJECTION, OpenClipNameMap
from dreambooth.models.sd.keys import UNET, VAE
from dreambooth.models.sd.sd2 import SD2_768
from dreambooth.models.sd.sd2 import TEXT as SD2_TEXT
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.models.sd.sdxl import TEXT_2 as SDXL_TEXT_2
from dreambooth.models.sd.vae_spellings import diffusers_vae_names, original_vae_name
from dreambooth.models.transforms import IDENTITY, RESHAPE, TRANSPOSE, Chunk, Transform
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

_FIRST_LAYER = "diffusion_model.input_blocks.0.0.weight"  # of every UNet in the original layout
_BARE_LAYER = _FIRST_LAYER.removeprefix("diffusion_model.")
_UNET_PARTS = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
_CONTROLNET = ("zero_convs.", "input_hint_block.", "lora_controlnet")
_PARTS = (UNET, VAE, "cond_stage_model.", "conditioner.", "model_ema.", "edm_vpred.")

_OTHER_PREFIXES = {
    "vae.": VAE,
    "cond_stage_model.text_model.": "cond_stage_model.transformer.text_model.",
    "cond_stage_model.clip_l.transformer.": "cond_stage_model.transformer.",
    "cond_stage_model.clip_h.transformer.": "cond_stage_model.transformer.",
    "conditioner.embedders.0.text_model.": "conditioner.embedders.0.transformer.text_model.",
    "conditioner.embedders.1.text_model.": "conditioner.embedders.1.transformer.text_model.",
}
# Stable Diffusion 1 and 2 as the code of SDXL (generative-models) names them.
_GENERATIVE_MODELS = {
    "conditioner.embedders.0.transformer.": "cond_stage_model.transformer.",
    "conditioner.embedders.0.model.": SD2_TEXT,
}
# Text encoders of open_clip that may be stored with the names of transformers: that prefix, and the original one.
_OPEN_CLIP = {
    "cond_stage_model.transformer.": SD2_TEXT,
    "conditioner.embedders.1.transformer.": SDXL_TEXT_2,
}
_N_SD2_LAYERS = 24  # of which Stable Diffusion 2 uses all but the last, which transformers' files lack
_MAX_SD1_WIDTH = 768  # of text embeddings; a wider encoder is that of Stable Diffusion 2


def with_original_names(file: Tensors) -> Tensors:
    """``file`` itself if it has the original names, else a view of it that does."""
    names, notes = _without_wrapping(file.keys())
    sources = _renamed_sources(names)
    shapes = {key: file.shape(own[0]) for key, own in sources.items()}
    sources = _with_diffusers_vae(_with_fused_text_encoders(sources, shapes))
    changed = [key for key, own in sources.items() if own != (key,)]
    linear = [key for key in sources if is_vae_attention(key) and len(shapes.get(key, ())) in (2, 3)]
    if not changed and not linear and len(sources) == len(file.keys()):
        return file
    if changed:
        notes.insert(0, f"{_renamed(sources, changed)} Checkpoints are written with the original names.")
    view = _OriginalNames(file, sources, tuple(notes))
    view.filler_tensors = _filler_tensors(view, sources)
    return view


def is_vae_attention(key: str) -> bool:
    """Whether this weight is a linear layer in diffusers and a 1x1 convolution in the original."""
    return key.startswith(VAE) and ".attn_1." in key and key.endswith(".weight") and ".norm." not in key


class _OriginalNames(Tensors):
    """A view of ``file``: original names, each with the names of the file's tensors that it consists of."""

    def __init__(self, file: Tensors, sources: Mapping[str, tuple[str, ...]], notes: tuple[str, ...]):
        self.path, self.metadata, self.notes = file.path, file.metadata, notes
        self._file, self._sources = file, sources
        self.filler_tensors: Mapping[str, torch.Tensor] = {}  # of the original that the file lacks

    def path_of(self, key: str) -> Path:
        return self._file.path_of(key)

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return [*self._sources, *(key for key in self.filler_tensors if key not in self._sources)]

    def __contains__(self, key: str) -> bool:
        return key in self._sources or key in self.filler_tensors

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self._sources:
            return tuple(self.filler_tensors[key].shape)
        return self._transform(key).original_shape([self._file.shape(name) for name in self._sources[key]])

    def dtype(self, key: str) -> torch.dtype:
        if key not in self._sources:
            return self.filler_tensors[key].dtype
        return self._file.dtype(self._sources[key][0])

    def get(self, key: str) -> torch.Tensor:
        if key not in self._sources:
            return self.filler_tensors[key]
        return self._transform(key).join([self._file.get(name) for name in self._sources[key]])

    def _transform(self, key: str) -> Transform:
        """From the file's tensors to the original one: transformers has linear layers in place of a projection matrix
        and of the VAE's 1x1 convolutions.
        """
        names = self._sources[key]
        if key.endswith(PROJECTION) and names[0].endswith(f"{PROJECTION}.weight"):
            return TRANSPOSE
        if is_vae_attention(key) and len(self._file.shape(names[0])) in (2, 3):
            return RESHAPE
        return Chunk(len(names)) if len(names) > 1 else IDENTITY


def _filler_tensors(view: Tensors, sources: Mapping[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """What strict readers of single files expect and text encoders of transformers lack. It doesn't affect images."""
    converted = [
        prefix
        for prefix in _OPEN_CLIP.values()
        if sources.get(prefix + "ln_final.weight", ("",))[0].endswith("final_layer_norm.weight")
    ]
    if not converted:
        return {}
    if converted == [SD2_TEXT]:
        has_all_layers = any(f".resblocks.{_N_SD2_LAYERS - 1}." in key for key in sources)
        return {} if has_all_layers else SD2_768.filler_tensors({key: view.shape(key) for key in view}, {})
    return SDXL.filler_tensors({}, {})


def _without_wrapping(keys: list[str]) -> tuple[dict[str, str], list[str]]:
    """The names without a prefix that all parts of the model share, each with the file's own name; and notes."""
    if _BARE_LAYER in keys and not any(key.startswith(_CONTROLNET) for key in keys):  # the UNet alone
        return {UNET + key if key.startswith(_UNET_PARTS) else key: key for key in keys}, []
    anchor = next((key for key in keys if key.endswith(_FIRST_LAYER) and "control" not in key), "")
    wrapping = anchor.removesuffix(_FIRST_LAYER)
    if wrapping in ("", "model."):
        lacks_prefix = bool(anchor) and not wrapping
        return {
            ("model." + key if lacks_prefix and key.startswith("diffusion_model.") else key): key for key in keys
        }, []
    wrapping = wrapping.removesuffix("model.")
    names: dict[str, str] = {}
    for key in keys:
        name = key.removeprefix(wrapping)
        name = "model." + name if name.startswith("diffusion_model.") else name
        if key.startswith((wrapping, *_PARTS)) or "." not in key:
            names.setdefault(name, key)
    n_left_out = len(keys) - len(names)
    left_out = f"{count(n_left_out, 'tensor')} outside of {wrapping}* (such as optimizer states) left out."
    return names, [left_out] if n_left_out else []


def _renamed_sources(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The original names, each with the file's own name. A tensor that is there under both keeps its other name."""
    has_unet, is_xl = UNET + "input_blocks.0.0.weight" in names, UNET + "label_emb.0.0.weight" in names
    is_older = has_unet and not is_xl and not any(name.startswith("conditioner.embedders.1.") for name in names)
    prefixes = {**_OTHER_PREFIXES, **(_GENERATIVE_MODELS if is_older else {})}
    sources = {}
    for name, key in names.items():
        original = _original_name(name, prefixes)
        sources[name if original in names else original] = (key,)
    return sources


def _original_name(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, original in prefixes.items():
        if name.startswith(prefix):
            name = original + name.removeprefix(prefix)
    return VAE + original_vae_name(name.removeprefix(VAE)) if name.startswith(VAE) else name


def _with_diffusers_vae(sources: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    names = [key.removeprefix(VAE) for key in sources if key.startswith(VAE)]
    if not any(".down_blocks." in name for name in names):
        return sources
    original = {VAE + name: VAE + other for name, other in diffusers_vae_names(names).items()}
    return {original.get(key, key): own for key, own in sources.items()}


def _with_fused_text_encoders(
    sources: dict[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, ...]]:
    for prefix, original in _OPEN_CLIP.items():
        own = {
            SDXL.component("text_encoder").disk_name(key.removeprefix(prefix)): key
            for key in sources
            if key.startswith(prefix)
        }
        embedding = own.get("text_model.embeddings.token_embedding.weight")
        is_open_clip = original.startswith("conditioner.") or _is_sd2(sources, shapes, embedding)
        if embedding is None or not is_open_clip or any(key.startswith(original) for key in sources):
            continue
        layers = {match[1] for name in own if (match := re.match(r"text_model\.encoder\.layers\.(\d+)\.", name))}
        fused = _fused(own, OpenClipNameMap(len(layers), has_projection=True), original)
        joined: dict[str, tuple[str, ...]] = {}
        for key, names in sources.items():
            if not key.startswith(prefix):
                joined[key] = names
            elif key in fused:
                whole, parts = fused[key]
                joined[whole] = tuple(name for part in parts for name in sources[part])
        sources = joined
    return sources


def _is_sd2(sources: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], embedding: str | None) -> bool:
    """Whether a text encoder with transformers' names is that of Stable Diffusion 2, whose UNet projects linearly."""
    is_linear = len(shapes.get(UNET + "middle_block.1.proj_in.weight", ())) == 2
    return embedding is not None and (is_linear or shapes[embedding][-1] > _MAX_SD1_WIDTH)


def _fused(own: Mapping[str, str], names: OpenClipNameMap, prefix: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """For the first part of each tensor of open_clip: its name, and the keys of all parts in order."""
    fused = {}
    for name in own:
        original = names.to_original(name)
        parts = names.to_modules(original) if original else ()
        if original and parts[:1] == (name,) and all(part in own for part in parts):
            fused[own[name]] = (prefix + original, tuple(own[part] for part in parts))
    return fused


def _renamed(sources: Mapping[str, tuple[str, ...]], changed: list[str]) -> str:
    """What was renamed, with one example."""
    tensors_have = count(len(changed), "tensor has", "tensors have")
    return f"{tensors_have} other names than usual, such as {sources[changed[0]][0]} instead of {changed[0]}."
