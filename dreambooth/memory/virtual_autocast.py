"""Autocast of virtual tensors by CUDA's rules: torch's own looks for the device that autograd knows.

The lists are those of torch's documentation ("CUDA Ops that can autocast to float16", "to float32", "that promote to
the widest input type"), with the functions of torch.nn.functional that lead to them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dreambooth.memory.replaced import replaced
from dreambooth.memory.virtual_cuda import is_autocast_enabled
from dreambooth.memory.virtual_tensor import VirtualTensor

_LOW = frozenset({
    "__matmul__", "__rmatmul__", "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "bmm", "chain_matmul",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "einsum", "linear", "matmul", "mm", "multi_dot", "mv", "prelu",
})  # fmt: skip
_FLOAT32 = frozenset({
    "__pow__", "__rpow__", "acos", "asin", "binary_cross_entropy_with_logits", "cdist", "cosh",
    "cosine_embedding_loss", "cosine_similarity", "cumprod", "cumsum", "dist", "erfinv", "exp", "expm1",
    "group_norm", "hinge_embedding_loss", "huber_loss", "interpolate", "kl_div", "l1_loss", "layer_norm", "log",
    "log10", "log1p", "log2", "log_softmax", "logsumexp", "margin_ranking_loss", "mse_loss", "multi_margin_loss",
    "native_layer_norm", "nll_loss", "norm", "normalize", "pdist", "poisson_nll_loss", "pow", "prod", "reciprocal",
    "renorm", "rsqrt", "sinh", "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus", "sum", "tan",
    "triplet_margin_loss", "upsample_bilinear2d", "upsample_nearest2d", "vector_norm", "matrix_norm",
})  # fmt: skip
_WIDEST = frozenset({
    "addcdiv", "addcmul", "atan2", "cat", "cross", "dot", "grid_sample", "index_put", "scatter_add", "stack",
    "tensordot",
})  # fmt: skip


@contextlib.contextmanager
def virtual_autocast() -> Iterator[None]:
    """In the block, functions called from Python get their inputs in the dtype that autocast gives them on CUDA."""
    mode = _Mode()
    run_backward: Any = getattr(torch.autograd, "_engine_run_backward", None)

    def run_in_mode(*args: Any, **kwargs: Any) -> Any:
        with mode:  # from torch 2.10 on, backward itself is a function of the mode, which is off in it
            return run_backward(*args, **kwargs)

    replacement = {"_engine_run_backward": run_in_mode} if run_backward else {}
    with replaced(torch.autograd, **replacement), replaced(torch, clear_autocast_cache=mode.clear_cache), mode:
        yield


class _Mode(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of weights, until the outermost block ends

    def clear_cache(self) -> None:
        self._copies.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_autocast_enabled() and (dtype := _dtype_for(func, args)):
            args = [self._cast(x, dtype) for x in args]
            kwargs = {key: self._cast(x, dtype) for key, x in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(self._cast(part, dtype) for part in x) if type(x) in (list, tuple) else x
        if not isinstance(x, VirtualTensor) or not x.is_cuda or not x.is_floating_point() or x.dtype == dtype:
            return x
        if x.dtype == torch.float64:
            return x
        is_weight = x.requires_grad and x.is_leaf and x.dtype == torch.float32 and not x._is_view()
        if not is_weight or dtype == torch.float32 or not torch.is_autocast_cache_enabled():
            return x.to(dtype)
        if id(x) not in self._copies:
            self._copies[id(x)] = x, x.to(dtype)
        return self._copies[id(x)][1]


def _dtype_for(func: Callable[..., Any], args: Sequence[Any]) -> torch.dtype | None:
    name = getattr(func, "__name__", "")
    if name in _LOW:
        return torch.get_autocast_gpu_dtype()
    if name in _FLOAT32:
        return torch.float32
    if name not in _WIDEST:
        return None
    tensors = [x for part in args for x in (part if isinstance(part, list | tuple) else [part])]
    dtypes = {x.dtype for x in tensors if isinstance(x, VirtualTensor) and x.is_cuda}
    return torch.float32 if torch.float32 in dtypes and len(dtypes) > 1 else None
