"""How original checkpoints name the tensors of CLIP's text encoders, and how transformers does.

SD1 and SDXL's first encoder are stored as transformers itself names them; SD2's and SDXL's second as open_clip does,
which keeps the three projections of an attention in one tensor.
"""

from __future__ import annotations

_MODEL = "text_model."
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OUTSIDE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
PROJECTION = "text_projection"  # stored transposed: open_clip multiplies from the other side
_FUSED = tuple(f"self_attn.{part}_proj" for part in "qkv")


class TransformersNameMap:
    """The names are transformers' own."""

    def to_modules(self, name: str) -> tuple[str, ...]:
        """() for position ids, which are counted anew. Some merges were saved without the inner prefix."""
        return () if name.endswith("position_ids") else (_MODEL + name.removeprefix(_MODEL),)

    def to_original(self, name: str) -> str | None:
        return name


class OpenClipNameMap:
    """open_clip's names, for an encoder of which transformers' module carries the first ``n_layers`` layers.

    SD2 reads the last layer but one, so its module ends there, and has no projection.
    """

    def __init__(self, n_layers: int, projects: bool):
        self._to_modules: dict[str, tuple[str, ...]] = {ours: (theirs,) for ours, theirs in _OUTSIDE.items()}
        if projects:
            self._to_modules[PROJECTION] = ("text_projection.weight",)
        for number in range(n_layers):
            self._to_modules |= _layer(f"transformer.resblocks.{number}.", f"text_model.encoder.layers.{number}.")
        self._to_original = {theirs: ours for ours, all_theirs in self._to_modules.items() for theirs in all_theirs}

    def to_modules(self, name: str) -> tuple[str, ...]:
        return self._to_modules.get(name, ())

    def to_original(self, name: str) -> str | None:
        return self._to_original.get(name)


def _layer(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    names = {}
    for kind in ("weight", "bias"):
        names |= {f"{ours}{a}.{kind}": (f"{theirs}{b}.{kind}",) for a, b in _LAYER.items()}
        names[f"{ours}attn.in_proj_{kind}"] = tuple(f"{theirs}{part}.{kind}" for part in _FUSED)
    return names
