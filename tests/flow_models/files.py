"""Flow-matching models with few channels and random weights, in the files in which they are published."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dreambooth import actions
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.adapter_layers import chosen_layers
from dreambooth.models.layout import TensorRef
from dreambooth.settings import CreateOptions, Folders, ModelFolder
from dreambooth.settings.training import DEFAULT_LAYERS
from dreambooth.tensor_files import write_tensors

PREFIX = "model.diffusion_model."
QWEN: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
QUICK = {
    "max_train_steps": 3, "train_batch_size": 2, "resolution": 64, "bucket_step": 16, "lora_unet_rank": 4,
    "lora_learning_rate": 1e-2, "mixed_precision": "no", "use_lora": True,
}  # fmt: skip

Weights = dict[str, torch.Tensor]


class Files(NamedTuple):
    transformer: Path
    text_encoder: Path
    vae: Path
    text_encoder_2: Path | None = None  # of families with two

    @property
    def options(self) -> list[str]:
        """Of the command create, besides the transformer."""
        second = ["--text-encoder", str(self.text_encoder_2)] if self.text_encoder_2 else []
        return ["--text-encoder", str(self.text_encoder), "--vae", str(self.vae), *second]


class ModelFiles:
    """The modules of a family, and their files in half precision, as WebUIs keep them.

    ``title``: of the family. ``names``: of the published files. ``prefix``: of the tensors in the transformer's file;
    ``text_prefix``: of the text encoder's in one file with all three, as ComfyUI saves it. ``embedding``: component and
    name of a text encoder's embeddings of tokens.
    """

    title: str
    names: Files
    prefix: str = ""
    text_prefix: str
    embedding = "text_encoder", "embed_tokens.weight"

    def make_modules(self) -> dict[str, Any]:
        """The modules in float32, by component name: classes of diffusers and transformers."""
        raise NotImplementedError

    def native_transformer(self) -> Weights:
        """The tensors of the transformer's file without prefix."""
        raise NotImplementedError

    def native_vae(self) -> Weights:
        raise NotImplementedError

    def vae_of_whole_file(self) -> Weights:
        return self.native_vae()

    def text_files(self) -> dict[str, Weights]:
        """The tensors of the text encoders' files, by component name."""
        return {"text_encoder": {f"model.{key}": value for key, value in self.half["text_encoder"].items()}}

    def text_parts(self) -> dict[str, Weights]:
        """The tensors of text encoders in one file with all components, by prefix."""
        return {self.text_prefix: self.half["text_encoder"]}

    def is_used(self, component: str, name: str) -> bool:
        """Whether models have this tensor of a component's file."""
        return True

    def write(self, folder: Path, prefix: str | None = None, name: str = "") -> Files:
        """All files. ``prefix``, ``name``: of the transformer's, where they aren't the published ones."""
        files = Files(*(folder / own for own in self.names if own))
        files = files._replace(transformer=folder / name) if name else files
        for source, target in zip(self._written, files, strict=True):
            if source and target:
                shutil.copyfile(source, target)
        if prefix is not None:
            write_tensors(files.transformer, {prefix + key: value for key, value in self.native_transformer().items()})
        return files

    def whole_file(self, path: Path) -> Path:
        parts = {PREFIX: self.native_transformer(), "vae.": self.vae_of_whole_file(), **self.text_parts()}
        write_tensors(path, {prefix + key: value for prefix, part in parts.items() for key, value in part.items()})
        return path

    @functools.cached_property
    def half(self) -> dict[str, Weights]:
        """The weights of the modules in half precision."""
        return {
            name: {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
            for name, module in self.make_modules().items()
        }

    @functools.cached_property
    def _written(self) -> Files:
        folder = Path(tempfile.mkdtemp())
        files = Files(*(folder / name for name in ("transformer", "text_encoder", "vae")))
        if "text_encoder_2" in self.text_files():
            files = files._replace(text_encoder_2=folder / "text_encoder_2")
        write_tensors(files.transformer, {self.prefix + key: v for key, v in self.native_transformer().items()})
        for name, tensors in self.text_files().items():
            write_tensors(getattr(files, name), tensors)
        write_tensors(files.vae, self.native_vae())
        return files


def original(weights: Mapping[str, torch.Tensor], names: Any) -> Weights:
    """Tensors of a module as its original file has them. ``names``: a NameMap."""
    made = {}
    for key in dict.fromkeys(names.to_original(name) for name in weights):
        made[key] = names.transform(key).join([weights[part] for part in names.to_modules(key)])
    return made


def create(tmp_path: Path, files: Files, name: str = "z", **options: Any) -> ModelFolder:
    folders = Folders(tmp_path / "models")
    second = {"text_encoder_2": str(files.text_encoder_2)} if files.text_encoder_2 else {}
    own = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae), **second, **options)
    actions.create(folders, name, files.transformer, own)
    return ModelFolder(folders, name)


def tensors_of(path: Path) -> Weights:
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def is_same(one: Weights, other: Weights) -> bool:
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def random_lora(path: Path, model: ModelFolder, layers: str = DEFAULT_LAYERS) -> Path:
    """A LoRA of rank 2 for all ``layers`` (of the setting lora_layers), with names as they are written."""
    modules = load_modules(model.working, vae=False, text_encoder=False)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for target, layer in chosen_layers(modules.family, "transformer", modules.denoiser, layers).items():
        rows, columns = layer.weight.shape
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        name = modules.layout.adapter_names(TensorRef("transformer", f"{target}.weight"))[0]
        weights[name] = make_lora(up * 0.2, down * 0.2, (columns,))
    write_lora(path, weights, {}, torch.float32)
    return path


def in_8_bits(tensors: Weights, kind: str, part: str = "") -> Weights:
    """Matrices, of modules with ``part`` in their names, in 8 bits: plain fp8, kohya's ("scale_weight") and ComfyUI's
    ("float8_e4m3fn") scaled fp8, ComfyUI's int8 ("int8").
    """
    made = dict(tensors)
    for key in [key for key in tensors if part in key and tensors[key].dim() == 2]:
        weight, module = tensors[key].float(), key.removesuffix(".weight")
        scale = weight.abs().amax(dim=1, keepdim=True) / 100
        if kind == "plain":
            made[key] = weight.to(torch.float8_e4m3fn)
            continue
        if kind == "scale_weight":
            made[key], made[f"{module}.scale_weight"] = (weight / scale).to(torch.float8_e4m3fn), scale
            made["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
            continue
        is_int = kind == "int8"
        scale = scale if is_int else scale.max()
        stored = weight / scale
        made[key] = stored.round().to(torch.int8) if is_int else stored.to(torch.float8_e4m3fn)
        made[f"{module}.weight_scale"] = scale
        text = json.dumps({"format": "int8_tensorwise" if is_int else kind})
        made[f"{module}.comfy_quant"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return made
