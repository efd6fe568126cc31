"""Tensor names of the transformers of FLUX.1 and Chroma: those of the original code, and of diffusers' module."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth.models.transforms import IDENTITY, SWAP, Chunk, Concat, Transform

_QKV, _ADDED_QKV = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
# Modules by their original names; those of several modules stack their rows.
_TOP: Mapping[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    **{
        f"{original}.{layer}_layer": (f"time_text_embed.{module}.linear_{number}",)
        for original, module in
        {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}.items()
        for number, layer in enumerate(("in", "out"), 1)
    },
    "distilled_guidance_layer.in_proj": ("distilled_guidance_layer.in_proj",),
    "distilled_guidance_layer.out_proj": ("distilled_guidance_layer.out_proj",),
}  # fmt: skip
_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": tuple(f"attn.{part}" for part in _QKV),
    "txt_attn.qkv": tuple(f"attn.{part}" for part in _ADDED_QKV),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "modulation.lin": ("norm.linear",),
    "linear1": (*(f"attn.{part}" for part in _QKV), "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_APPROXIMATOR = {"in_layer": ("linear_1",), "out_layer": ("linear_2",)}  # of Chroma's modulations
# Numbered modules: their original list, that of diffusers, and the modules in each member.
_LISTS = (
    ("double_blocks.", "transformer_blocks.", _DOUBLE),
    ("single_blocks.", "single_transformer_blocks.", _SINGLE),
    ("distilled_guidance_layer.layers.", "distilled_guidance_layer.layers.", _APPROXIMATOR),
    ("distilled_guidance_layer.norms.", "distilled_guidance_layer.norms.", {"": ("",)}),
)
_IS_SWAPPED = "final_layer.adaLN_modulation.1."  # shift and scale in the original, scale and shift in diffusers
_SCALE, _WEIGHT = "scale", "weight"  # of norms, in the original and in diffusers
_MLP_RATIO = 4


class TransformerNames:
    """``width``: channels of a token. The original has query, key and value as one tensor, in single blocks with the
    first layer of the MLP.
    """

    def __init__(self, width: int) -> None:
        self._width = width

    def to_modules(self, name: str) -> tuple[str, ...]:
        path, _, leaf = name.rpartition(".")
        for originals, modules, members in _LISTS:
            if path.startswith(originals):
                number, _, rest = path.removeprefix(originals).partition(".")
                return tuple(_joined(modules + number, part, _module_leaf(leaf)) for part in members.get(rest, ()))
        return tuple(f"{part}.{leaf}" for part in _TOP.get(path, ()))

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or of a module."""
        for originals, modules, members in _LISTS:
            if name.startswith(modules):
                number, _, rest = name.removeprefix(modules).partition(".")
                found = _found(members, rest)
                return found and _joined(originals + number, *found)
        found = _found(_TOP, name)
        return found and _joined(*found)

    def transform(self, name: str) -> Transform:
        if name.startswith(_IS_SWAPPED):
            return SWAP
        n_parts = len(self.to_modules(name))
        if n_parts == len(_QKV):
            return Chunk(n_parts)
        return Concat((*[self._width] * len(_QKV), self._width * _MLP_RATIO)) if n_parts > 1 else IDENTITY


def _found(members: Mapping[str, tuple[str, ...]], name: str) -> tuple[str, str] | None:
    """The original name of the module that ``name`` is or is in, and what follows; None for an unknown one."""
    for original, modules in members.items():
        for module in modules:
            if f"{name}.".startswith(f"{module}." if module else ""):
                leaf = name.removeprefix(module).removeprefix(".")
                return original, _SCALE if leaf == _WEIGHT and _is_norm(original) else leaf
    return None


def _is_norm(original: str) -> bool:
    return not original or original.endswith("_norm")


def _module_leaf(leaf: str) -> str:
    return _WEIGHT if leaf == _SCALE else leaf


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
