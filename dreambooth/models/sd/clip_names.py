"""Tensor names of CLIP text encoders in original checkpoints and in transformers.

The text encoder of SD1 and the first one of SDXL have the names of transformers; that of SD2 and the second one of SDXL
those of open_clip, which stores the three projections of an attention layer in one tensor.
"""

from __future__ import annotations

from dreambooth.models.transforms import IDENTITY, TRANSPOSE, Chunk, Transform

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
PROJECTION = "text_projection"  # stored transposed in open_clip's layout
_FUSED = tuple(f"self_attn.{part}_proj" for part in "qkv")


class TransformersNameMap:
    """Names that are the same in transformers."""

    def to_modules(self, name: str) -> tuple[str, ...]:
        """() for position ids, which are rebuilt. Some merged checkpoints lack the inner prefix."""
        return () if name.endswith("position_ids") else (_MODEL + name.removeprefix(_MODEL),)

    def to_original(self, name: str) -> str | None:
        return name

    def transform(self, name: str) -> Transform:
        return IDENTITY


class OpenClipNameMap:
    """open_clip's names, for a transformers module with the first ``n_layers`` layers of the encoder.

    SD2 uses the output of the penultimate layer, so its module ends there and has no projection.
    """

    def __init__(self, n_layers: int, has_projection: bool):
        self._to_modules: dict[str, tuple[str, ...]] = {original: (module,) for original, module in _OUTSIDE.items()}
        if has_projection:
            self._to_modules[PROJECTION] = ("text_projection.weight",)
        for number in range(n_layers):
            self._to_modules |= _layer_names(f"transformer.resblocks.{number}.", f"text_model.encoder.layers.{number}.")
        self._to_original = {module: original for original, modules in self._to_modules.items() for module in modules}

    def to_modules(self, name: str) -> tuple[str, ...]:
        return self._to_modules.get(name, ())

    def to_original(self, name: str) -> str | None:
        return self._to_original.get(name)

    def transform(self, name: str) -> Transform:
        if name == PROJECTION:
            return TRANSPOSE
        n_parts = len(self.to_modules(name))
        return Chunk(n_parts) if n_parts > 1 else IDENTITY


def _layer_names(original: str, module: str) -> dict[str, tuple[str, ...]]:
    names = {}
    for kind in ("weight", "bias"):
        names |= {f"{original}{a}.{kind}": (f"{module}{b}.{kind}",) for a, b in _LAYER.items()}
        names[f"{original}attn.in_proj_{kind}"] = tuple(f"{module}{part}.{kind}" for part in _FUSED)
    return names
