"""Models of every family give the same images as diffusers' own pipelines, also with a LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.lora import lora_name
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Folders, ModelFolder
from tests.mini_models import create

REQUEST = SampleRequest("a zwx toy", seed=3, steps=4, cfg=4.0, width=64, height=48)


KINDS = {"SD2 768": ("v2x", {}), "SD2 512": ("v2x-512", {}), "SDXL": ("SDXL", {}),
         "SDXL v": ("SDXL", {"v_pred": True, "ztsnr": True})}  # fmt: skip
NEGATIVES = {"no negative": "", "negative": "a ring"}
NIGHTLY = {("SD2 768", "negative"), ("SD2 512", "no negative"), ("SDXL v", "no negative")}
CASES = [
    pytest.param(*kind, negative, id=f"{name}-{with_negative}",
                 marks=[pytest.mark.nightly] if (name, with_negative) in NIGHTLY else [])
    for name, kind in KINDS.items()
    for with_negative, negative in NEGATIVES.items()
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "marks", "negative"), CASES)
def test_the_same_image_as_diffusers(tmp_path, model_type, marks, negative):
    pytest.importorskip("peft", reason="diffusers loads LoRAs through peft")
    model = create(Folders(tmp_path / "models"), "m", model_type, **marks)
    lora = _random_lora(model, tmp_path / "lora.safetensors")
    request = SampleRequest(
        REQUEST.prompt, negative, REQUEST.seed, REQUEST.steps, REQUEST.cfg, REQUEST.width, REQUEST.height
    )
    pipeline = _pipeline(model.working)
    for loras in ([], [lora]):
        if loras:
            pipeline.load_lora_weights(str(lora))
        ours = np.asarray(Image.open(actions.sample(model, [request], tmp_path / "out", loras=loras)[0])).astype(int)
        theirs = np.asarray(
            pipeline(
                request.prompt,
                negative_prompt=negative or None,
                num_inference_steps=request.steps,
                height=request.height,
                guidance_scale=request.cfg,
                width=request.width,
                generator=torch.Generator().manual_seed(request.seed),
            ).images[0]
        ).astype(int)
        assert ours.std() > 5 and np.abs(ours - theirs).max() <= 2


def _random_lora(model: ModelFolder, path: Path) -> Path:
    modules, generator, weights = load_modules(model.working), torch.Generator().manual_seed(0), {}
    for component, module in {"unet": modules.denoiser, **modules.text_encoders}.items():
        for name, layer in modules.family.adapter_targets(component, module).items():
            out, inner, *kernel = layer.weight.shape
            parts = {
                "lora_down.weight": torch.randn(2, inner, *kernel, generator=generator) * 0.2,
                "lora_up.weight": torch.randn(out, 2, *kernel, generator=generator) * 0.2,
            }
            weights[lora_name(modules.layout, component, name)] = Lora(parts, alpha=1.0)
    write_lora(path, weights, {"ss_base_model_version": modules.family.base_model_version}, torch.float32)
    return path


def _pipeline(working: Path):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(working, torch_dtype=torch.float32, local_files_only=True)
