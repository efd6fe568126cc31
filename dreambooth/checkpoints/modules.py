"""diffusers' and transformers' modules from a model's ``working`` folder, and their weights back into it.

Modules are built on the meta device, without memory or random numbers, and then given the file's tensors: loading
costs about what reading the file costs.
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
from dreambooth.files import content_hash, read_json, atomic_write, write_json
from dreambooth.tensor_files import TensorFile, Tensors, write_tensors

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
    """What training and sampling work with. Parts that were not asked for are None."""

    family: Family
    layout: Layout
    scheduler_config: dict[str, Any]
    unet: Any = None  # of diffusers, whose types know no config's attributes
    vae: Any = None
    text_encoder: nn.Module | None = None
    tokenizer: Any = None
    text_encoder_2: nn.Module | None = None  # SDXL's
    tokenizer_2: Any = None

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """Those that are loaded, by the component's name."""
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
    """The modules of ``working`` on the CPU in ``dtype``, in eval mode, without gradients until asked for.

    The family's text encoders come together, each with its tokenizer. UserError when a file is missing, damaged
    or does not fit its config.
    """
    working = Path(working)
    family = load_family(working)
    texts = [name for name in TEXT_ENCODERS if text_encoder and name in family.components]
    return Modules(
        family=family,
        layout=load_layout(working, family),
        scheduler_config=load_scheduler_config(working),
        unet=load_unet(working, dtype) if unet else None,
        vae=load_vae(working, dtype) if vae else None,
        **{name: _load(working, name, dtype) for name in texts},
        **{TOKENIZERS[name]: load_tokenizer(working, TOKENIZERS[name]) for name in texts},
    )


def load_family(working: Path) -> Family:
    """The family of a model that was created here."""
    return family_of(read_json(Path(working) / "model_index.json").get("_dreambooth_family", "v1x"))


def load_scheduler_config(working: Path) -> dict[str, Any]:
    """The noise schedule that the model is trained with, and what its unet predicts."""
    return read_json(Path(working) / "scheduler" / "scheduler_config.json")


def load_layout(working: Path, family: Family) -> Layout:
    """The original names of the model's tensors."""
    return family.layout({part: read_json(Path(working) / part / "config.json") for part in family.components})


def load_unet(working: Path, dtype: torch.dtype = torch.float32, name: str = "unet") -> nn.Module:
    """UNet2DConditionModel; ``name="ema_unet"`` for the averaged weights."""
    return _load(working, name, dtype)


def load_vae(working: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """AutoencoderKL."""
    return _load(working, "vae", dtype)


def load_tokenizer(working: Path, name: str = "tokenizer") -> Any:
    """CLIPTokenizer, from the folder's own files: no network."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(Path(working) / name, local_files_only=True)


def meta_module(component: str, config: Mapping[str, Any]) -> nn.Module:
    """The component's module on the meta device: names and shapes, no values."""
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    if component in TEXT_ENCODERS:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        projects = "CLIPTextModelWithProjection" in values.get("architectures", ())
        with torch.device("meta"):
            return (CLIPTextModelWithProjection if projects else CLIPTextModel)(CLIPTextConfig(**values))
    import diffusers

    with torch.device("meta"):
        return diffusers.AutoencoderKL(**values) if component == "vae" else diffusers.UNet2DConditionModel(**values)


def disk_name(component: str, name: str) -> str:
    """A parameter's name on disk. transformers 5 dropped ``text_model.`` from its modules; on disk it always is."""
    if component in TEXT_ENCODERS and not name.startswith((_TEXT_PREFIX, _PROJECTION)):
        return _TEXT_PREFIX + name
    return name


def disk_shapes(component: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's name on disk and its shape."""
    return {disk_name(component, name): tuple(p.shape) for name, p in module.named_parameters()}


def weights_path(working: Path, component: str) -> Path:
    return Path(working) / component / WEIGHTS[component]


def open_component(path: Path) -> TensorFile:
    """Open a file of the model's own folders."""
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
    """Replace a component's weights, whole or not at all. ``dtype`` None keeps that of the tensors.

    ``name`` is a component, or ema_unet, which is made beside unet when it is not there yet. Weights that
    aren't exactly the component's (an adapter left in, a layer missing) are a ValueError.
    """
    tensors = dict(weights.named_parameters()) if isinstance(weights, nn.Module) else weights
    tensors = {disk_name(name, key): value.detach() for key, value in tensors.items()}
    reference = "unet" if name == "ema_unet" else name
    with open_component(weights_path(working, reference)) as file:
        expected = {key: file.shape(key) for key in file}
    if {key: tuple(value.shape) for key, value in tensors.items()} != expected:
        odd = sorted(tensors.keys() ^ expected.keys())[:5]
        raise ValueError(f"these are not the weights of {name}; names or shapes differ: {odd}")
    if name == "ema_unet":
        write_json(Path(working) / name / "config.json", read_json(Path(working) / "unet" / "config.json"))
    ordered = {key: tensors[key].to("cpu", dtype or tensors[key].dtype) for key in expected}
    with atomic_write(weights_path(working, name)) as beside:
        write_tensors(beside, ordered, {"format": "pt"})


def fingerprint(working: Path, component: str) -> str:
    """sha256 of the component's weights file; kept beside it and made anew when size or time of the file change."""
    path = weights_path(working, component)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: create the model again.") from None
    state = [stat.st_size, stat.st_mtime_ns]
    kept_path = path.with_name("fingerprint.json")
    try:
        kept = json.loads(kept_path.read_text(encoding="utf-8"))
        if kept["state"] == state:
            return kept["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or unreadable: it is only a note
    digest = content_hash(path)
    write_json(kept_path, {"state": state, "sha256": digest})
    return digest


def _load(working: Path, component: str, dtype: torch.dtype) -> nn.Module:
    folder = Path(working) / component
    module = meta_module(component, read_json(folder / "config.json"))
    with open_component(folder / WEIGHTS[component]) as file:
        _fill_from(module, component, file, dtype)
    _rebuild_buffers(module)
    return module.eval()


def _fill_from(module: nn.Module, component: str, file: Tensors, dtype: torch.dtype) -> None:
    """Give the module the file's tensors, each read and cast on its own. All of the one must be in the other."""
    expected = disk_shapes(component, module)
    found = {key: file.shape(key) for key in file if not key.endswith("position_ids")}
    if found != expected:
        odd = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
        raise UserError(f"{file.path} does not fit its config.json ({len(odd)} tensors differ, first {odd[0]}).")
    load_parameters(module, component, file.get, dtype)


def load_parameters(module: nn.Module, component: str, values: Callable[[str], torch.Tensor], dtype: torch.dtype) -> None:
    """Give a skeleton its parameters; ``values`` knows them by their names on disk."""
    for name, _ in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(values(disk_name(component, name)).to(dtype), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, parameter)


def _rebuild_buffers(module: nn.Module) -> None:
    """CLIP counts positions in a buffer that files need not carry; nothing else may be left without values."""
    for name, buffer in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if leaf == "position_ids":
            setattr(module.get_submodule(owner), leaf, torch.arange(buffer.shape[-1]).expand(buffer.shape))
        elif buffer.is_meta:
            raise NotImplementedError(f"no values for buffer {name}")
