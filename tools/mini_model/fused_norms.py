"""RMS norms with what precedes and follows them in Z-Image's blocks, as single operations (fused_norms.c).

In small models on a CPU, most time goes into such elementwise operations. Without a C compiler, `is_available` is
False.
"""

import torch

from .compiled import call, library

NAME = "fused_norms"


def is_available():
    return library(NAME) is not None


class ScaledNorm(torch.autograd.Function):
    """norm(x) * weight * (1 + scale): x float [n, tokens, width], scale float [n, width] -> bfloat16."""

    @staticmethod
    def forward(ctx, x, weight, scale, epsilon):
        x, scale = x.contiguous(), scale.contiguous()
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        call(NAME, "scaled_norm_forward", (x, weight, scale, out), x.shape, epsilon)
        ctx.save_for_backward(x, weight, scale)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    def backward(ctx, gradient):
        x, weight, scale = ctx.saved_tensors
        results = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(scale)
        inputs = (x, weight, scale, gradient.contiguous(), *results)
        call(NAME, "scaled_norm_backward", inputs, x.shape, ctx.epsilon)
        return *results, None


class GatedNorm(torch.autograd.Function):
    """x + gate * norm(change) * weight: x float and change bfloat16 [n, tokens, width], gate float [n, width]."""

    @staticmethod
    def forward(ctx, x, change, weight, gate, epsilon):
        x, change, gate = x.contiguous(), change.contiguous(), gate.contiguous()
        out = torch.empty_like(x)
        call(NAME, "gated_norm_forward", (x, change, weight, gate, out), x.shape, epsilon)
        ctx.save_for_backward(change, weight, gate)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    def backward(ctx, gradient):
        change, weight, gate = ctx.saved_tensors
        results = torch.empty_like(change), torch.zeros_like(weight), torch.zeros_like(gate)
        inputs = (change, weight, gate, gradient.contiguous(), *results)
        call(NAME, "gated_norm_backward", inputs, change.shape, ctx.epsilon)
        return gradient, *results, None


class RotatedNorm(torch.autograd.Function):
    """Normalized and rotated queries or keys: bfloat16 [n, tokens, heads, head] -> [n, heads, tokens, head]."""

    @staticmethod
    def forward(ctx, x, weight, cosine, sine, epsilon):
        x = x.contiguous()
        images, tokens, heads, head = x.shape
        out = torch.empty(images, heads, tokens, head, dtype=torch.bfloat16)
        call(NAME, "rotated_norm_forward", (x, weight, cosine, sine, out), x.shape, epsilon)
        ctx.save_for_backward(x, weight, cosine, sine)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    def backward(ctx, gradient):
        x, weight, cosine, sine = ctx.saved_tensors
        results = torch.empty_like(x), torch.zeros_like(weight)
        inputs = (x, weight, cosine, sine, gradient.contiguous(), *results)
        call(NAME, "rotated_norm_backward", inputs, x.shape, ctx.epsilon)
        return *results, None, None, None
