"""A made-up model family: one denoiser, whose single file has tensors under every transform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.checkpoints.extract import extract_tensors
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.adapter_spelling import AdapterSpelling
from dreambooth.models.components import DENOISER, Component
from dreambooth.models.family import Configs, Family
from dreambooth.models.layout import ComponentLayout, Layout, Shapes
from dreambooth.models.recognition import Recognition
from dreambooth.models.transforms import IDENTITY, RESHAPE, SWAP, TRANSPOSE, Chain, Chunk, Concat, Transform
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors

WIDTH, INPUT = 6, 7
BLOCK, ORIGINAL_BLOCK = "blocks.0.", "layers.0."
# The names in the modules and the transform, by the original name; all in the block.
_LAYERS: dict[str, tuple[tuple[str, ...], Transform]] = {
    "plain": (("plain",), IDENTITY),
    "turned": (("turned",), TRANSPOSE),
    "conv": (("conv",), RESHAPE),
    "ada": (("ada",), SWAP),
    "qkv": (("to_q", "to_k", "to_v"), Chunk(3)),
    "linear1": (("q", "mlp"), Concat((WIDTH, 4 * WIDTH))),
    "both": (("first", "second"), Chain((TRANSPOSE, Chunk(2)))),
}
_ROWS = {"ada": 2 * WIDTH, "mlp": 4 * WIDTH}  # of the other layers: WIDTH
TENSORS = {
    f"{ORIGINAL_BLOCK}{name}.weight": (tuple(f"{BLOCK}{part}.weight" for part in parts), transform)
    for name, (parts, transform) in _LAYERS.items()
}


class _Names:
    def to_modules(self, name: str) -> tuple[str, ...]:
        return TENSORS[name][0] if name in TENSORS else ()

    def to_original(self, name: str) -> str | None:
        for original, (names, _) in TENSORS.items():
            if name in names:
                return original
            if f"{name}.weight" in names:
                return original.removesuffix(".weight")
        return None

    def transform(self, name: str) -> Transform:
        return TENSORS[name][1]


class MadeUpFamily(Family):
    model_type, title, base_model_version = "made-up", "Made Up 1", "made_up"
    default_prediction = "epsilon"
    components = (Component("transformer", DENOISER, "transformer", "net."),)
    adapters: AdapterSpelling | None = None  # the usual ones

    def matches(self, shapes: Shapes) -> bool:
        return "net.layers.0.linear1.weight" in shapes

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        return {"transformer": {}}

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        parts = [part for parts, _ in _LAYERS.values() for part in parts]
        block = {part: nn.Linear(INPUT, _ROWS.get(part, WIDTH), bias=False, device="meta") for part in parts}
        return nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict(block)])})

    def layout(self, configs: Configs) -> Layout:
        return Layout([ComponentLayout(self.components[0], _Names(), self.adapters)], "")

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {}

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        pass


def create(folder: Path, family: Family) -> tuple[Path, ModelFolder]:
    """A file of the registered ``family`` with random weights and a tensor that modules don't have, and its model."""
    generator, tensors = torch.Generator().manual_seed(0), {"extra": torch.ones(3)}
    for name, (parts, transform) in TENSORS.items():
        shapes = [(_ROWS.get(part.split(".")[-2], WIDTH), INPUT) for part in parts]
        tensors[f"net.{name}"] = torch.randn(transform.original_shape(shapes), generator=generator)
    path = folder / "made-up.safetensors"
    write_tensors(path, tensors, {})
    model = ModelFolder(Folders(folder / "models"), "made-up")
    with open_tensors(path) as file:
        extract_tensors(file, model, Recognition(family, "epsilon", "a test"), source=path, extract_ema=False)
    return path, model
