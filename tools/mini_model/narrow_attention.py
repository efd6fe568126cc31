"""Attention with very narrow heads, for training on CPUs.

The UNet's 8 heads have 4 to 10 channels. PyTorch's attention kernels are made for heads of 64 channels or more and take
two thirds of a training step here; narrow_attention.c computes the same in a fraction of that time. Without a C
compiler, plain matrix products are used.
"""

import torch

from .compiled import call, library

NAME = "narrow_attention"
MAX_KEYS, MAX_WIDTH = 1024, 16


class _Kernel(torch.autograd.Function):
    """query [batch, queries, heads * width], key and value [batch, keys, heads * width], all float32."""

    @staticmethod
    def forward(ctx, query, key, value, heads):
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        batch, queries, channels = query.shape
        sizes, scale = (batch, heads, queries, key.shape[1], channels // heads), (channels // heads) ** -0.5
        out, log_sum = torch.empty_like(query), query.new_empty(batch, heads, queries)
        call(NAME, "attention_forward", (query, key, value, out, log_sum), sizes, scale)
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.sizes, ctx.scale = sizes, scale
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, out, log_sum = ctx.saved_tensors
        results = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        inputs = (query, key, value, out, log_sum, gradient.contiguous())
        call(NAME, "attention_backward", (*inputs, *results), ctx.sizes, ctx.scale)
        return *results, None


class NarrowHeadAttention:
    """An attention processor for diffusers models: same result as the default, but faster."""

    def __call__(self, attention, hidden, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attention.to_q(hidden), attention.to_k(context), attention.to_v(context)
        width = query.shape[-1] // attention.heads
        if library(NAME) and key.shape[1] <= MAX_KEYS and width <= MAX_WIDTH:
            mixed = _Kernel.apply(query.float(), key.float(), value.float(), attention.heads).to(query.dtype)
        else:
            split = (attention.heads, width)
            query, key, value = (x.unflatten(-1, split).transpose(1, 2) for x in (query, key, value))
            weights = torch.softmax((query * attention.scale) @ key.transpose(-1, -2), -1).to(value.dtype)
            mixed = (weights @ value).transpose(1, 2).flatten(2)
        return attention.to_out[1](attention.to_out[0](mixed))
