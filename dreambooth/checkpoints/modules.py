"""Loading modules of diffusers and transformers from a model's ``working`` folder, and saving their weights to it.

Modules are built on the meta device, without allocation or initialization, and then get the tensors of the file, so
loading takes about as long as reading the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.checkpoints.family import Family, family_of
from dreambooth.checkpoints.layout import Layout
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import atomic_write, content_hash, read_json, write_json
from dreambooth.tensor_files import TensorFile, Tensors, write_tensors
from dreambooth.text import count

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "ema_unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_TEXT_PREFIX, _PROJECTION = "text_model.", "text_projection."


@dataclass
class Modules:
    """The modules of a model for training and sampling; None for those that were not requested."""

    family: Family
    layout: Layout
    scheduler_config: dict[str, Any]
    unet: Any = None  # diffusers modules; their type stubs lack the config attributes
    vae: Any = None
    text_encoder: nn.Module | None = None
    tokenizer: Any = None
    text_encoder_2: nn.Module | None = None  # SDXL
    tokenizer_2: Any = None

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The loaded text encoders by component name."""
        return {name: getattr(self, name) for name in TEXT_ENCODERS if getattr(self, name) is not None}

    @property
    def tokenizers(self) -> list[Any]:
        return [getattr(self, TOKENIZERS[name]) for name in self.text_encoders]


def load_modules(
    working: Path,
    *,
    unet: bool = True,
    vae: bool = True,
    text_encoder: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Modules:
    """Load the modules of ``working`` on the CPU in ``dtype``, in eval mode, with gradients disabled.

    ``text_encoder`` loads all text encoders of the family, each with its tokenizer. UserError when a file is missing,
    damaged, or does not match its config.
    """
    working = Path(working)
    family = load_family(working)
    encoders = [name for name in TEXT_ENCODERS if text_encoder and name in family.components]
    return Modules(
        family=family,
        layout=load_layout(working, family),
        scheduler_config=load_scheduler_config(working),
        unet=load_unet(working, dtype) if unet else None,
        vae=load_vae(working, dtype) if vae else None,
        **{name: _load(working, name, dtype) for name in encoders},
        **{TOKENIZERS[name]: load_tokenizer(working, TOKENIZERS[name]) for name in encoders},
    )


def load_family(working: Path) -> Family:
    """The family of a created model."""
    return family_of(read_json(Path(working) / "model_index.json").get("_dreambooth_family", "v1x"))


def load_scheduler_config(working: Path) -> dict[str, Any]:
    """The scheduler config: noise schedule and prediction type."""
    return read_json(Path(working) / "scheduler" / "scheduler_config.json")


def load_layout(working: Path, family: Family) -> Layout:
    """The mapping between the model's tensors and the original names."""
    return family.layout({part: read_json(Path(working) / part / "config.json") for part in family.components})


def load_unet(working: Path, dtype: torch.dtype = torch.float32, name: str = "unet") -> nn.Module:
    """UNet2DConditionModel; ``name="ema_unet"`` for the EMA weights."""
    return _load(working, name, dtype)


def load_vae(working: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """AutoencoderKL."""
    return _load(working, "vae", dtype)


def load_tokenizer(working: Path, name: str = "tokenizer") -> Any:
    """CLIPTokenizer from the files of the folder, without network access."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(Path(working) / name, local_files_only=True)


def meta_module(component: str, config: Mapping[str, Any]) -> nn.Module:
    """The module of a component on the meta device: names and shapes without values."""
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    if component in TEXT_ENCODERS:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        has_projection = "CLIPTextModelWithProjection" in values.get("architectures", ())
        with torch.device("meta"):
            return (CLIPTextModelWithProjection if has_projection else CLIPTextModel)(CLIPTextConfig(**values))
    import diffusers

    with torch.device("meta"):
        return diffusers.AutoencoderKL(**values) if component == "vae" else diffusers.UNet2DConditionModel(**values)


def disk_name(component: str, name: str) -> str:
    """The name of a parameter on disk. transformers 5 dropped the prefix ``text_model.``, files still have it."""
    if component in TEXT_ENCODERS and not name.startswith((_TEXT_PREFIX, _PROJECTION)):
        return _TEXT_PREFIX + name
    return name


def disk_shapes(component: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by their names on disk."""
    return {disk_name(component, name): tuple(p.shape) for name, p in module.named_parameters()}


def weights_path(working: Path, component: str) -> Path:
    return Path(working) / component / WEIGHTS[component]


def open_component(path: Path) -> TensorFile:
    """Open a weight file in the folder of a model."""
    try:
        return open_tensors(path)
    except UserError as error:
        raise UserError(f"{path} is missing, unreadable or damaged: create the model again.") from error


def save_component(
    working: Path,
    name: str,
    weights: nn.Module | Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Replace the weights of a component atomically. ``dtype`` None keeps the dtype of the tensors.

    ``name`` is a component, or ema_unet, whose folder is created if necessary. ValueError when names or shapes are not
    exactly those of the component, as when an adapter is still injected or a layer is missing.
    """
    tensors = dict(weights.named_parameters()) if isinstance(weights, nn.Module) else weights
    tensors = {disk_name(name, key): value.detach() for key, value in tensors.items()}
    reference = "unet" if name == "ema_unet" else name
    with open_component(weights_path(working, reference)) as file:
        expected = {key: file.shape(key) for key in file}
    if {key: tuple(value.shape) for key, value in tensors.items()} != expected:
        differing = sorted(tensors.keys() ^ expected.keys())[:5]
        raise ValueError(f"names or shapes differ from the weights of {name}: {differing}")
    if name == "ema_unet":
        write_json(Path(working) / name / "config.json", read_json(Path(working) / "unet" / "config.json"))
    ordered = {key: tensors[key].to("cpu", dtype or tensors[key].dtype) for key in expected}
    with atomic_write(weights_path(working, name)) as temporary:
        write_tensors(temporary, ordered, {"format": "pt"})


def fingerprint(working: Path, component: str) -> str:
    """sha256 of the component's weights, cached next to them until size or modification time of the file change."""
    path = weights_path(working, component)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: create the model again.") from None
    state = [stat.st_size, stat.st_mtime_ns]
    cache_path = path.with_name("fingerprint.json")
    try:
        cached = json.loads(cache_path.read_text(encoding="utf-8"))
        if cached["state"] == state:
            return cached["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or unreadable: it is only a cache
    digest = content_hash(path)
    write_json(cache_path, {"state": state, "sha256": digest})
    return digest


def _load(working: Path, component: str, dtype: torch.dtype) -> nn.Module:
    folder = Path(working) / component
    module = meta_module(component, read_json(folder / "config.json"))
    with open_component(folder / WEIGHTS[component]) as file:
        _load_from(module, component, file, dtype)
    _rebuild_buffers(module)
    return module.eval()


def _load_from(module: nn.Module, component: str, file: Tensors, dtype: torch.dtype) -> None:
    """Load the tensors of a file into a module one by one. UserError when names or shapes differ."""
    expected = disk_shapes(component, module)
    shapes = {key: file.shape(key) for key in file if not key.endswith("position_ids")}
    if shapes != expected:
        differing = [key for key in {**expected, **shapes} if expected.get(key) != shapes.get(key)]
        raise UserError(
            f"{file.path} does not match its config.json ({count(len(differing), 'difference')}, first "
            f"{differing[0]}): create the model again."
        )
    load_parameters(module, component, file.get, dtype)


def load_parameters(
    module: nn.Module, component: str, get_tensor: Callable[[str], torch.Tensor], dtype: torch.dtype
) -> None:
    """Set the parameters of a meta module; ``get_tensor`` returns them by their names on disk."""
    for name, _ in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(get_tensor(disk_name(component, name)).to(dtype), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, parameter)


def _rebuild_buffers(module: nn.Module) -> None:
    """Recreate CLIP's buffer of position ids, which files may lack. No other buffer may be without values."""
    for name, buffer in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if leaf == "position_ids":
            setattr(module.get_submodule(owner), leaf, torch.arange(buffer.shape[-1]).expand(buffer.shape))
        elif buffer.is_meta:
            raise NotImplementedError(f"no values for buffer {name}")
