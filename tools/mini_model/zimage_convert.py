"""Conversion of Z-Image's trained components to one .safetensors file, with the names that WebUIs' files have."""

import json
import os

import torch
from safetensors.torch import save_file

from .convert import original_vae
from .vae import FLUX_VAE, NORM_GROUPS, new_vae
from .zimage_networks import WIDTH, new_text_encoder, new_transformer

# What tensors don't determine: Z-Image's VAE has 32 norm groups.
CONFIG = {"vae": {"norm_num_groups": NORM_GROUPS}}
TRANSFORMER, TEXT_ENCODER, VAE = "model.diffusion_model.", "text_encoders.qwen3_4b.transformer.model.", "vae."
_NAMES = {
    "all_x_embedder.2-1.": "x_embedder.",
    "all_final_layer.2-1.": "final_layer.",
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
}
_QUERY = ".attention.to_q."


def original_transformer(state):
    """Tensors of the transformer under their original names: query, key and value are one."""
    result = {}
    for key, tensor in state.items():
        name = key
        for module, original in _NAMES.items():
            name = name.replace(module, original)
        if _QUERY in name:
            parts = [state[key.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
            result[name.replace("to_q", "qkv")] = torch.cat(parts)
        elif ".attention.to_" not in name:
            result[name] = tensor
    return result | {"norm_final.weight": torch.ones(WIDTH)}  # unused, but in every file


def module_states(tensors):
    """State dicts of transformer, text encoder and VAE from the tensors of a file, float32."""
    states = []
    for prefix, module, names in (
        (TRANSFORMER, new_transformer(), original_transformer),
        (TEXT_ENCODER, new_text_encoder(), dict),
        (VAE, new_vae(FLUX_VAE), _plain_vae),
    ):
        state = {}
        for key, tensor in module.state_dict().items():
            if ".attention.to_" in key and "to_out" not in key:
                number = ("to_q", "to_k", "to_v").index(key.split(".")[-2])
                whole = tensors[prefix + key.replace(key.split(".")[-2], "qkv")]
                state[key] = whole.chunk(3)[number].float()
            else:
                original = next(name for name in names({key: tensor}) if name != "norm_final.weight")
                state[key] = tensors[prefix + original].reshape(tensor.shape).float()
        states.append(state)
    return states


def _plain_vae(state):
    return {key.removeprefix("first_stage_model."): tensor for key, tensor in original_vae(state).items()}


def convert_zimage(folder, path):
    """Convert the work folder to a single file. Returns the number of tensors."""
    model = torch.load(folder / "model.pt")
    parts = {
        TRANSFORMER: original_transformer(model["transformer"]),
        TEXT_ENCODER: model["text_encoder"],
        VAE: _plain_vae(torch.load(folder / "vae.pt")),
    }
    tensors = {
        prefix + name: tensor.half().contiguous() for prefix, part in parts.items() for name, tensor in part.items()
    }
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, {"format": "pt", "dreambooth.zimage": json.dumps(CONFIG)})
    os.replace(temporary, path)
    return len(tensors)
