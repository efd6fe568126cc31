"""Tensor names of Z-Image's transformer: those of the original code, which hosts read, and of diffusers' module."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth.models.transforms import IDENTITY, Chunk, Transform

_TOP = {"x_embedder": "all_x_embedder.2-1", "final_layer": "all_final_layer.2-1"}  # for patches of 2 x 2 in one frame
_ATTENTION = {"out": "to_out.0", "q_norm": "norm_q", "k_norm": "norm_k"}
_QKV = ("to_q", "to_k", "to_v")
_FUSED = ".attention.qkv.weight"
_TO_ORIGINAL = {**dict.fromkeys(_QKV, "qkv"), **{module: original for original, module in _ATTENTION.items()}}


class TransformerNames:
    """The original has query, key and value as one tensor. Other names are the same but for a few modules'."""

    def to_modules(self, name: str) -> tuple[str, ...]:
        if name.endswith(_FUSED):
            return tuple(name.replace(".qkv.", f".{part}.") for part in _QKV)
        head, _, rest = name.partition(".")
        return (f"{_TOP[head]}.{rest}" if head in _TOP else _with_attention(name, _ATTENTION),)

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or of a module."""
        for original, module in _TOP.items():
            if name.startswith(module):
                return original + name.removeprefix(module)
        return _with_attention(name, _TO_ORIGINAL)

    def transform(self, name: str) -> Transform:
        return Chunk(len(_QKV)) if name.endswith(_FUSED) else IDENTITY


def _with_attention(name: str, parts: Mapping[str, str]) -> str:
    """``name`` with the part of an attention module translated, if it is in one."""
    head, attention, tail = name.partition(".attention.")
    part = next((part for part in parts if attention and f"{tail}.".startswith(f"{part}.")), None)
    return name if part is None else head + attention + parts[part] + tail.removeprefix(part)
