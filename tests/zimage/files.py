"""Z-Image with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dreambooth import actions
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.layout import TensorRef
from dreambooth.models.sd.ldm_names import vae_names
from dreambooth.models.transforms import Transform
from dreambooth.models.zimage.names import TransformerNames
from dreambooth.settings import CreateOptions, Folders, ModelFolder
from dreambooth.tensor_files import write_tensors

N_TOKENS = 151_936
TRANSFORMER: dict[str, Any] = {
    "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16,
    "axes_dims": [4, 6, 6], "axes_lens": [1536, 512, 512],
}  # fmt: skip
QWEN: dict[str, Any] = {
    "vocab_size": N_TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
VAE: dict[str, Any] = {
    "latent_channels": 16, "block_out_channels": [32] * 4, "layers_per_block": 1, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip

QUICK = {
    "max_train_steps": 3, "train_batch_size": 2, "resolution": 64, "bucket_step": 16, "lora_unet_rank": 4,
    "lora_learning_rate": 1e-2, "mixed_precision": "no", "use_lora": True,
}  # fmt: skip


class Files(NamedTuple):
    transformer: Path
    text_encoder: Path
    vae: Path


def make_modules() -> dict[str, nn.Module]:
    """The three modules in float32, by component name."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules: dict[str, nn.Module] = {
            "transformer": ZImageTransformer2DModel(**TRANSFORMER),
            "text_encoder": Qwen3Model(Qwen3Config(**QWEN)),
            "vae": AutoencoderKL(**VAE),
        }
        for name, parameter in modules["transformer"].named_parameters():
            if name.endswith("pad_token"):
                nn.init.zeros_(parameter)  # older diffusers leave them without values
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        nn.init.normal_(modules["text_encoder"].get_parameter("embed_tokens.weight"))
    return modules


def write(folder: Path, prefix: str = "", name: str = "z_image.safetensors") -> Files:
    """The files in half precision, as WebUIs keep them. ``prefix``: of the transformer's tensors."""
    files = Files(folder / name, folder / "qwen_3_4b.safetensors", folder / "ae.safetensors")
    for source, target in zip(_written(), files, strict=True):
        shutil.copyfile(source, target)
    if prefix:
        write_tensors(files.transformer, {prefix + key: value for key, value in native_transformer().items()})
    return files


def whole_file(path: Path) -> Path:
    """All three in one file, as ComfyUI saves it."""
    parts = {"model.diffusion_model.": native_transformer(), "vae.": native_vae(),
             "text_encoders.qwen3_4b.transformer.model.": dict(_half()["text_encoder"])}  # fmt: skip
    write_tensors(path, {prefix + key: value for prefix, part in parts.items() for key, value in part.items()})
    return path


def native_transformer() -> dict[str, torch.Tensor]:
    """The tensors of the transformer's file: query, key and value are one, and a tensor is unused."""
    tensors = _original(_half()["transformer"], TransformerNames())
    return {**tensors, "norm_final.weight": torch.ones(TRANSFORMER["dim"]).half()}


def native_vae() -> dict[str, torch.Tensor]:
    """With the names of the original code; the attention's layers are 1x1 convolutions there."""
    tensors = _original(_half()["vae"], vae_names(VAE))
    is_conv = (".mid.attn_1.q", ".mid.attn_1.k", ".mid.attn_1.v", ".mid.attn_1.proj_out")
    return {
        key: value[:, :, None, None] if any(f"{part}.weight" in key for part in is_conv) else value
        for key, value in tensors.items()
    }


def _original(weights: dict[str, torch.Tensor], names: Any) -> dict[str, torch.Tensor]:
    originals = dict.fromkeys(names.to_original(name) for name in weights)
    made = {}
    for original in originals:
        transform: Transform = names.transform(original)
        made[original] = transform.join([weights[part] for part in names.to_modules(original)])
    return made


@functools.cache
def _half() -> dict[str, dict[str, torch.Tensor]]:
    return {name: {k: v.half() for k, v in module.state_dict().items()} for name, module in make_modules().items()}


@functools.cache
def _written() -> Files:
    folder = Path(tempfile.mkdtemp())
    files = Files(folder / "transformer", folder / "text_encoder", folder / "vae")
    write_tensors(files.transformer, native_transformer())
    write_tensors(files.text_encoder, {f"model.{key}": value for key, value in _half()["text_encoder"].items()})
    write_tensors(files.vae, native_vae())
    return files


def create(tmp_path: Path, files: Files, name: str = "z", **options: Any) -> ModelFolder:
    folders = Folders(tmp_path / "models")
    own = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae), **options)
    actions.create(folders, name, files.transformer, own)
    return ModelFolder(folders, name)


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def random_lora(path: Path, model: ModelFolder) -> Path:
    """A LoRA of rank 2 for all targets, with names as they are written."""
    modules = load_modules(model.working, vae=False, text_encoder=False)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for target, layer in modules.family.adapter_targets("transformer", modules.denoiser).items():
        rows, columns = layer.weight.shape
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        name = modules.layout.adapter_names(TensorRef("transformer", f"{target}.weight"))[0]
        weights[name] = make_lora(up * 0.2, down * 0.2, (columns,))
    write_lora(path, weights, {}, torch.float32)
    return path
