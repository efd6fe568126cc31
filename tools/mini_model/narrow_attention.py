"""Attention with very narrow heads, for training on CPUs.

The UNet's 8 heads have 4 to 10 channels. PyTorch's attention kernels are made for heads of 64 channels or more and take
two thirds of a training step here; narrow_attention.c computes the same in a fraction of that time. It is compiled with
the installed C compiler; without one, plain matrix products are used.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

MAX_KEYS, MAX_WIDTH = 1024, 16


@cache
def library():
    """The compiled kernels, or None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source = Path(__file__).with_suffix(".c")
    folder = Path(tempfile.mkdtemp(prefix="narrow-attention-"))
    target = folder / "kernels.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", "-lm"]
    try:
        subprocess.run([compiler, str(source), "-o", str(target), *flags], check=True, capture_output=True)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError):
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a loaded library no longer needs its file


def _call(name, tensors, sizes, scale):
    function = getattr(library(), name)
    function(*[ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors], *sizes, ctypes.c_float(scale))


class _Kernel(torch.autograd.Function):
    """query [batch, queries, heads * width], key and value [batch, keys, heads * width], all float32."""

    @staticmethod
    def forward(ctx, query, key, value, heads):
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        batch, queries, channels = query.shape
        sizes, scale = (batch, heads, queries, key.shape[1], channels // heads), (channels // heads) ** -0.5
        out, log_sum = torch.empty_like(query), query.new_empty(batch, heads, queries)
        _call("attention_forward", (query, key, value, out, log_sum), sizes, scale)
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.sizes, ctx.scale = sizes, scale
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, out, log_sum = ctx.saved_tensors
        results = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        inputs = (query, key, value, out, log_sum, gradient.contiguous())
        _call("attention_backward", (*inputs, *results), ctx.sizes, ctx.scale)
        return *results, None


class NarrowHeadAttention:
    """An attention processor for diffusers models: same result as the default, but faster."""

    def __call__(self, attention, hidden, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attention.to_q(hidden), attention.to_k(context), attention.to_v(context)
        width = query.shape[-1] // attention.heads
        if library() and key.shape[1] <= MAX_KEYS and width <= MAX_WIDTH:
            mixed = _Kernel.apply(query.float(), key.float(), value.float(), attention.heads).to(query.dtype)
        else:
            split = (attention.heads, width)
            query, key, value = (x.unflatten(-1, split).transpose(1, 2) for x in (query, key, value))
            weights = torch.softmax((query * attention.scale) @ key.transpose(-1, -2), -1).to(value.dtype)
            mixed = (weights @ value).transpose(1, 2).flatten(2)
        return attention.to_out[1](attention.to_out[0](mixed))
