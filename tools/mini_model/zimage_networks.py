"""Transformer and text encoder: classes and topology of Z-Image with few channels, and a fast forward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from . import fused_norms
from .qwen_tokenizer import CONTEXT

VOCABULARY = 151_936
TEXT_WIDTH = 20
TEXT_LAYERS = 2
WIDTH = 160
HEAD = 32  # channels of a head
LAYERS, REFINERS = 5, 1
PATCH, LATENT_CHANNELS, LATENT_SIZE = 2, 16, 16
SIDE = LATENT_SIZE // PATCH  # tokens along each side of an image
GATE = 0.2  # at the start: how much each block adds


def new_text_encoder() -> Any:
    """Qwen3 with 2 layers of width 20. Z-Image uses the hidden states before the last layer."""
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            rope_theta=1e6,  # pyright: ignore[reportCallIssue] (read by all versions)
            tie_word_embeddings=True,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue] (of the base class)
        )
    )
    nn.init.normal_(encoder.get_input_embeddings().get_parameter("weight"), std=0.5)
    return encoder


def new_transformer() -> Any:
    """Z-Image's transformer, 160 wide. It starts with blocks that add a little, and a prediction of zeros."""
    transformer: Any = ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=WIDTH,
        n_layers=LAYERS,
        n_refiner_layers=REFINERS,
        n_heads=WIDTH // HEAD,
        n_kv_heads=WIDTH // HEAD,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[HEAD // 4, HEAD * 3 // 8, HEAD * 3 // 8],
        axes_lens=[1536, 512, 512],
    )
    with torch.no_grad():
        for block in (*transformer.noise_refiner, *transformer.layers):
            modulation: Any = block.adaLN_modulation[0]
            modulation.weight.mul_(0.2)
            _, gate_attention, _, gate_feed_forward = modulation.bias.zero_().chunk(4)
            gate_attention.fill_(GATE)
            gate_feed_forward.fill_(GATE)
        final: Any = transformer.all_final_layer["2-1"]
        for layer in (final.linear, final.adaLN_modulation[1]):
            layer.weight.zero_()
            layer.bias.zero_()
        nn.init.normal_(transformer.cap_pad_token, std=0.02)
        nn.init.zeros_(transformer.x_pad_token)
    return transformer


class FastForward:
    """The transformer's forward pass for batches of the same size: 64 tokens of an image, 32 of its text.

    The module takes lists and pads each image and text alone. Here everything is batched, for training with autocast
    to bfloat16.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        text = torch.tensor([[1 + i, 0, 0] for i in range(CONTEXT)])
        image = torch.tensor([[CONTEXT + 1, row, column] for row in range(SIDE) for column in range(SIDE)])
        self.text, self.image = (_rotations(transformer, positions) for positions in (text, image))
        self.both = tuple(torch.cat(pair) for pair in zip(self.image, self.text, strict=True))

    def __call__(self, latents, time, states, lengths):
        """Latents [n, 16, 16, 16], time from noise (0) to image (1) [n], states [n, 32, 20], lengths [n] -> velocity.

        The velocity is x_0 - noise, float32, in the shape of the latents.
        """
        model, embedding = self.transformer, self.transformer.t_embedder
        modulation = embedding.mlp(embedding.timestep_embedding(time * model.t_scale, 256))
        image = model.all_x_embedder["2-1"](_patches(latents)).float()
        for block in model.noise_refiner:
            image = _block(block, image, self.image, modulation)
        is_padding = torch.arange(CONTEXT) >= lengths[:, None]
        text = torch.where(is_padding[..., None], model.cap_pad_token, model.cap_embedder(states).float())
        for block in model.context_refiner:
            text = _block(block, text, self.text)
        tokens = torch.cat([image, text], 1)
        for block in model.layers:
            tokens = _block(block, tokens, self.both, modulation)
        final = model.all_final_layer["2-1"]
        scale = 1 + final.adaLN_modulation(modulation)[:, None]
        tokens = F.layer_norm(tokens[:, : SIDE**2].float(), (WIDTH,), eps=1e-6) * scale
        return _latents(final.linear(tokens).float())


def _rotations(transformer, positions):
    """Cosine and sine [tokens, head / 2] of the rotary embedding."""
    rotations = transformer.rope_embedder(positions)
    return rotations.real.contiguous(), rotations.imag.contiguous()


def _patches(latents):
    split = latents.unflatten(3, (SIDE, PATCH)).unflatten(2, (SIDE, PATCH))
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _latents(patches):
    split = patches.unflatten(2, (PATCH, PATCH, LATENT_CHANNELS)).unflatten(1, (SIDE, SIDE))
    return split.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _block(block, x, rotations, modulation=None):
    if modulation is None:
        scales, gates = (torch.zeros(2, len(x), WIDTH), torch.ones(2, len(x), WIDTH))
    else:
        parts = block.adaLN_modulation(modulation).float().chunk(4, 1)
        scales, gates = parts[::2], [part.tanh() for part in parts[1::2]]
    normal = _scaled_norm(block.attention_norm1, x, scales[0])
    x = _gated_norm(block.attention_norm2, x, _attention(block.attention, normal, rotations), gates[0])
    normal = _scaled_norm(block.ffn_norm1, x, scales[1])
    return _gated_norm(block.ffn_norm2, x, block.feed_forward(normal), gates[1])


def _attention(attention, x, rotations):
    query, key, value = (
        layer(x).unflatten(-1, (-1, HEAD)) for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    query = _rotated_norm(attention.norm_q, query, *rotations)
    key = _rotated_norm(attention.norm_k, key, *rotations)
    # Without the fused kernel, which is slow for narrow heads.
    weights = torch.softmax(query @ (key * HEAD**-0.5).transpose(2, 3), -1).to(value.dtype)
    return attention.to_out[0]((weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2))


def _is_fused():
    """Whether to use the operations in mixed precision."""
    return torch.is_autocast_enabled("cpu") and fused_norms.is_available()


def _scaled_norm(norm, x, scale):
    if _is_fused():
        return fused_norms.ScaledNorm.apply(x, norm.weight, scale, norm.eps)
    return _norm(norm, x) * (1 + scale[:, None])


def _gated_norm(norm, x, change, gate):
    if _is_fused():
        return fused_norms.GatedNorm.apply(x, change.bfloat16(), norm.weight, gate, norm.eps)
    return x + gate[:, None] * _norm(norm, change)


def _rotated_norm(norm, x, cosine, sine):
    if _is_fused():
        return fused_norms.RotatedNorm.apply(x.bfloat16(), norm.weight, cosine, sine, norm.eps)
    x = _norm(norm, x).transpose(1, 2)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(3)


def _norm(norm, x):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight
