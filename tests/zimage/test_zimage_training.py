"""Training, prompts and previews of Z-Image, against the classes and formulas of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from tests.flow_models.files import create
from tests.flow_models.training_checks import (
    PROMPTS,
    check_full_training,
    check_lora_metadata,
    check_lora_run,
    check_merged,
    check_previews,
    check_prompts,
    check_step,
)
from tests.zimage import files as zimage


def test_loss_and_gradients_are_those_of_diffusers_script(session, family):
    """train_dreambooth_lora_z_image.py."""

    def normalize(latents):
        return (latents - zimage.VAE["shift_factor"]) * zimage.VAE["scaling_factor"]

    def predict(transformer, weights, noisy_latents, sigmas, states):
        arguments = (list(noisy_latents.unsqueeze(2).unbind(0)), 1 - sigmas, states)
        outputs = torch.func.functional_call(transformer, weights, arguments)[0]
        return -torch.stack(outputs, dim=0).squeeze(2)

    check_step(session, family, normalize, predict)


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    from diffusers import ZImagePipeline

    working = create(tmp_path, files, copy_source=True).working
    pipeline = ZImagePipeline.from_pretrained(working, local_files_only=True, torch_dtype=torch.float32)
    conditioner = load_modules(working, denoiser=False, vae=False).text_conditioner(None)
    expected, _ = pipeline.encode_prompt(list(PROMPTS), torch.device("cpu"), do_classifier_free_guidance=False)
    check_prompts(conditioner, expected)
    ids = conditioner.tokenize(["Hello, world!"]).ids[0].tolist()
    assert ids == [151644, 872, 198, 9707, 11, 1879, 0, 151645, 198, 151644, 77091, 198], "as published"
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (4, "") and counts[1] == (0, "") and conditioner.max_tokens == 509
    assert counts[3][0] == 601 and PROMPTS[3].endswith(counts[3][1]) and len(counts[3][1]) > 400
    long = "many words " * 254 + "many"
    assert conditioner.count_with_overflow([long, f"{long} w"]) == [(509, ""), (510, " w")]


def test_previews_are_those_of_the_pipeline(tmp_path, files):
    """ZImagePipeline, whose guidance scale counts from 0."""
    from diffusers import ZImagePipeline

    model = create(tmp_path, files, copy_source=True)
    pipeline: Any = ZImagePipeline.from_pretrained(model.working, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def draw(request):
        return pipeline(
            request.prompt, request.height, request.width, request.steps, guidance_scale=request.cfg - 1,
            negative_prompt=request.negative, generator=torch.Generator().manual_seed(request.seed),
            sigmas=np.linspace(1, 1 / request.steps, request.steps).tolist(),  # not the default in older diffusers
        ).images[0]  # fmt: skip

    check_previews(tmp_path, model, draw, lambda lora: pipeline.load_lora_weights(str(lora)), pipeline)


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    layers = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"]
    layers += [f"feed_forward.w{i}" for i in (1, 2, 3)]
    modules = [f"diffusion_model.layers.{i}.{layer}" for i in range(2) for layer in layers]
    model, lora = check_lora_run(tmp_path, files, concept, modules)
    check_lora_metadata(read_lora(lora), "z_image", "Z-Image")
    names = [f"diffusion_model_layers_1_{layer.replace('.', '_')}" for layer in layers[:3]]
    check_merged(model, files, lora, 2 * 5, "layers.1.attention.qkv.weight", names)


def test_full_training_writes_the_native_file(model, files, concept):
    check_full_training(model, files, concept, unchanged=lambda key: key == "norm_final.weight")
