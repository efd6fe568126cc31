"""Chroma with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreambooth.models.flux.names import TransformerNames
from tests.flow_models.files import Files, ModelFiles, Weights, original
from tests.flux.files import BLOCKS, VAE, WIDTH, make_t5, native_vae, randomize, t5_file


class ChromaFiles(ModelFiles):
    title = "Chroma"
    names = Files(Path("Chroma1-HD.safetensors"), Path("t5xxl_fp16.safetensors"), Path("ae.safetensors"))
    embedding = "text_encoder", "shared.weight"

    def make_modules(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, ChromaTransformer2DModel

        sizes = {"num_channels": 16, "hidden_dim": 24, "layers": 2}
        approximator: dict[str, Any] = {f"approximator_{name}": size for name, size in sizes.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            modules: dict[str, Any] = {
                "transformer": ChromaTransformer2DModel(**BLOCKS, **approximator),
                "text_encoder": make_t5(),
                "vae": AutoencoderKL(**VAE),
            }
            randomize(modules["transformer"])
        return modules

    def native_transformer(self) -> Weights:
        return original(self.half["transformer"], TransformerNames(WIDTH))

    def native_vae(self) -> Weights:
        return native_vae(self.half["vae"])

    def text_files(self) -> dict[str, Weights]:
        return {"text_encoder": t5_file(self.half["text_encoder"])}

    def text_parts(self) -> dict[str, Weights]:
        return {"text_encoders.t5xxl.transformer.": t5_file(self.half["text_encoder"])}


CHROMA = ChromaFiles()
