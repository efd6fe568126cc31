"""Tensor names of FLUX.2's transformer: those of the original code, which files have, and of diffusers' module."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth.models.transforms import IDENTITY, SWAP, Chunk, Transform

_NORM_OUT = "final_layer.adaLN_modulation.1"  # shift and scale; diffusers has them in the other order
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    **{f"{name}.lin": f"{name}.linear" for name in
       ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")},
    _NORM_OUT: "norm_out.linear",
    "final_layer.linear": "proj_out",
}  # fmt: skip
_DOUBLE = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {
    "linear1": "attn.to_qkv_mlp_proj",
    "linear2": "attn.to_out",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
}
_BLOCKS = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
_INSIDE = {"double_blocks": _DOUBLE, "single_blocks": _SINGLE}


class TransformerNames:
    """The original has query, key and value of the double blocks as one tensor for each stream."""

    def to_modules(self, name: str) -> tuple[str, ...]:
        blocks, number, rest = _in_block(name, _BLOCKS)
        fused = next((parts for part, parts in _FUSED.items() if number and rest.startswith(f"{part}.")), ())
        if fused:
            leaf = rest.rpartition(".")[2]
            return tuple(f"{_BLOCKS[blocks]}.{number}.{part}.{leaf}" for part in fused)
        translated = _translated(rest, _INSIDE[blocks] if number else _TOP)
        return (_joined(_BLOCKS.get(blocks, ""), number, translated),) if translated else ()

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or of a module."""
        blocks, number, rest = _in_block(name, _ORIGINAL_BLOCKS)
        original = _ORIGINAL_BLOCKS.get(blocks, "")
        translated = _translated(rest, _ORIGINAL_INSIDE[original] if number else _ORIGINAL_TOP)
        return _joined(original, number, translated) if translated else None

    def transform(self, name: str) -> Transform:
        if name == f"{_NORM_OUT}.weight":
            return SWAP
        return Chunk(3) if any(f".{part}." in name for part in _FUSED) else IDENTITY


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {module: original for original, module in names.items()}


_ORIGINAL_BLOCKS, _ORIGINAL_TOP = _inverse(_BLOCKS), _inverse(_TOP)
_ORIGINAL_INSIDE = {
    "double_blocks": _inverse(_DOUBLE) | {part: original for original, parts in _FUSED.items() for part in parts},
    "single_blocks": _inverse(_SINGLE),
}


def _in_block(name: str, blocks: Mapping[str, str]) -> tuple[str, str, str]:
    """The list of blocks, the number of the block, and the name in it; two times "" if it is in none."""
    first, _, rest = name.partition(".")
    if first not in blocks:
        return "", "", name
    number, _, rest = rest.partition(".")
    return first, number, rest


def _translated(name: str, names: Mapping[str, str]) -> str | None:
    """With the module translated; None if it is unknown."""
    known = next((part for part in names if f"{name}.".startswith(f"{part}.")), None)
    return None if known is None else names[known] + name.removeprefix(known)


def _joined(blocks: str, number: str, name: str) -> str:
    return f"{blocks}.{number}.{name}" if number else name
