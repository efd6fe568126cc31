"""Conversion of the trained components to one .safetensors file in the original Stable Diffusion 1.x layout."""

import json
import os

import torch
from safetensors.torch import save_file

from .clip_tokenizer import CONTEXT
from .networks import NORM_GROUPS, SAMPLE_SIZE, TEXT_HEADS, UNET_HEADS, new_text_encoder, new_unet
from .vae import NORM_GROUPS as VAE_NORM_GROUPS
from .vae import new_vae

# Config values that tensor shapes don't determine. SD 1.x has 8 heads, 32 and 32 groups, and 12 heads.
CONFIG = {
    "unet": {"attention_head_dim": UNET_HEADS, "norm_num_groups": NORM_GROUPS},
    "vae": {"norm_num_groups": VAE_NORM_GROUPS},
    "text_encoder": {"num_attention_heads": TEXT_HEADS},
    "sample_size": SAMPLE_SIZE,
}

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_modules(levels=4, layers=2):
    """diffusers module name -> original module name. The last level has no attention."""
    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1
    for level in range(levels):
        for layer in range(layers):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            if level < levels - 1:
                names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < levels - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level in range(levels):
        for layer in range(layers + 1):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            if level > 0:
                names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            if layer == layers and level < levels - 1:
                index = 2 if level > 0 else 1
                names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{index}.conv"
            number += 1
    return names


def vae_modules(levels=4, layers=2):
    """diffusers module name -> original module name."""
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_out": f"{side}.conv_out",
            f"{side}.conv_norm_out": f"{side}.norm_out",
            f"{side}.mid_block.resnets.0": f"{side}.mid.block_1",
            f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1",
            f"{side}.mid_block.resnets.1": f"{side}.mid.block_2",
        }
    for level in range(levels):
        up = levels - 1 - level
        for layer in range(layers):
            names[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
        for layer in range(layers + 1):
            names[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"decoder.up.{up}.block.{layer}"
        names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{up}.upsample.conv"
    return names


def rename(key, modules, inner):
    """The original name of a diffusers key. `inner(module)` maps names within the module."""
    module = max((name for name in modules if key.startswith(name + ".")), key=len)
    rest = key[len(module) + 1 :]
    for old, new in inner(module).items():
        if rest.startswith(old + "."):
            rest = new + rest[len(old) :]
    return f"{modules[module]}.{rest}"


def original_unet(state):
    """Tensors of the UNet under their original names."""
    modules = unet_modules()
    return {
        "model.diffusion_model." + rename(key, modules, lambda m: UNET_RESNET if "resnets" in m else {}): tensor
        for key, tensor in state.items()
    }


def original_vae(state):
    """Tensors of the VAE under their original names, attention matrices as 1x1 convolutions."""
    modules, result = vae_modules(), {}
    for key, tensor in state.items():
        name = rename(key, modules, lambda m: VAE_ATTENTION if "attentions" in m else VAE_RESNET)
        is_matrix = "attn_1" in name and tensor.ndim == 2
        result["first_stage_model." + name] = tensor[:, :, None, None] if is_matrix else tensor
    return result


def original_text_encoder(state):
    """Tensors of the text encoder under their original names, with the position ids of older files."""
    prefix = "cond_stage_model.transformer.text_model."
    tensors = {prefix + key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    tensors[prefix + "embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    return tensors


def schedule_buffers():
    """Tensors of the noise schedule that every original file contains, [1000] float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = 1 - betas
    cumulative = alphas.cumprod(0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), cumulative[:-1]])
    variance = betas * (1 - previous) / (1 - cumulative)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": cumulative.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - cumulative).log(),
        "sqrt_recip_alphas_cumprod": (1 / cumulative).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumulative - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumulative),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumulative),
    }
    return {name: tensor.float() for name, tensor in buffers.items()}


def text_encoder_state(model):
    """State dict of the text encoder in a saved model.pt, with the whole token table."""
    state = dict(model["text_encoder"])
    name = next(key for key in new_text_encoder().state_dict() if key.endswith("token_embedding.weight"))
    return state | {name: model["token_embedding"]}


def write_checkpoint(unet_state, vae_state, text_state, path):
    """Write the single file (float16 weights) atomically. Returns the number of tensors."""
    weights = original_unet(unet_state) | original_vae(vae_state) | original_text_encoder(text_state)
    tensors = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for key, tensor in weights.items()
    } | schedule_buffers()
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, {"format": "pt", "dreambooth.config": json.dumps(CONFIG)})
    os.replace(temporary, path)
    return len(tensors)


def convert(folder, path):
    """Convert the work folder to a single file. Components not trained yet get random weights."""
    vae_file, model_file = folder / "vae.pt", folder / "model.pt"
    vae_state = torch.load(vae_file) if vae_file.exists() else new_vae().state_dict()
    if model_file.exists():
        model = torch.load(model_file)
        unet_state, text_state = model["unet"], text_encoder_state(model)
    else:
        unet_state, text_state = new_unet().state_dict(), new_text_encoder().state_dict()
    return write_checkpoint(unet_state, vae_state, text_state, path)
