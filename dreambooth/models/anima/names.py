"""Tensor names of Anima's transformer: those of Cosmos-Predict2's code, which files have, and of diffusers' module."""

from __future__ import annotations

from dreambooth.models.transforms import IDENTITY, Transform

ADAPTER = "llm_adapter."
_BLOCKS, _MODULE_BLOCKS = "blocks.", "transformer_blocks."
_TOP = {
    "x_embedder.proj.1": "patch_embed.proj",
    "t_embedder.1": "time_embed.t_embedder",
    "t_embedding_norm": "time_embed.norm",
    "final_layer.adaln_modulation.1": "norm_out.linear_1",
    "final_layer.adaln_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
}
_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0", "q_norm": "norm_q",
              "k_norm": "norm_k"}  # fmt: skip
_IN_BLOCK = {
    **{f"self_attn.{part}": f"attn1.{module}" for part, module in _ATTENTION.items()},
    **{f"cross_attn.{part}": f"attn2.{module}" for part, module in _ATTENTION.items()},
    "mlp.layer1": "ff.net.0.proj",
    "mlp.layer2": "ff.net.2",
    **{
        f"adaln_modulation_{part}.{i}": f"norm{number}.linear_{i}"
        for number, part in enumerate(("self_attn", "cross_attn", "mlp"), 1)
        for i in (1, 2)
    },
}
_ORIGINAL_TOP = {module: original for original, module in _TOP.items()}
_ORIGINAL_IN_BLOCK = {module: original for original, module in _IN_BLOCK.items()}


class TransformerNames:
    def to_modules(self, name: str) -> tuple[str, ...]:
        translated = _translated(name, _TOP, _BLOCKS, _IN_BLOCK, _MODULE_BLOCKS)
        return (translated,) if translated else ()

    def to_original(self, name: str) -> str | None:
        """The original name of a tensor or of a module."""
        return _translated(name, _ORIGINAL_TOP, _MODULE_BLOCKS, _ORIGINAL_IN_BLOCK, _BLOCKS)

    def transform(self, name: str) -> Transform:
        return IDENTITY


def is_adapter_name(name: str) -> bool:
    """Whether the text adapter has such a tensor, by its name in the adapter."""
    return name.startswith(("embed.", "in_proj.", "blocks.", "out_proj.", "norm."))


def _translated(name: str, top: dict[str, str], blocks: str, in_block: dict[str, str], new_blocks: str) -> str | None:
    """A tensor's or module's name with its module translated; None if it is unknown."""
    number, _, rest = name.removeprefix(blocks).partition(".") if name.startswith(blocks) else ("", "", name)
    names = in_block if number else top
    known = next((part for part in names if f"{rest}.".startswith(f"{part}.")), None)
    if known is None:
        return None
    return (f"{new_blocks}{number}." if number else "") + names[known] + rest.removeprefix(known)
