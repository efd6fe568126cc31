"""Training, prompts and previews of FLUX.1, against the classes and formulas of diffusers."""

from __future__ import annotations

from typing import Any

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
    check_step,
)
from tests.flux import files as flux

LAYERS = [
    *(f"transformer_blocks.{i}.{layer}" for i in range(2) for layer in (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0",
        "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    )),
    *(f"single_transformer_blocks.{i}.{layer}" for i in range(2) for layer in (
        "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out",
    )),
]  # fmt: skip


def test_loss_and_gradients_are_those_of_diffusers_script(session, family):
    """train_dreambooth_lora_flux.py with --guidance_scale=1, as sd-scripts' documentation has it."""
    from diffusers import FluxPipeline

    pipeline: Any = FluxPipeline
    batch = next(batch for batch in session.plan.epoch(session.settings.seed, 0, 2) if len(batch.instances) == 2)
    pooled = session.prompts.batch([example.caption for example in batch.instances])["pooled"].double()

    def normalize(latents):
        return (latents - flux.VAE["shift_factor"]) * flux.VAE["scaling_factor"]

    def predict(transformer, weights, noisy_latents, sigmas, states):
        height, width = noisy_latents.shape[2:]
        inputs = {
            "hidden_states": pipeline._pack_latents(noisy_latents, 2, 16, height, width),
            "timestep": sigmas, "guidance": torch.tensor([1.0, 1.0]), "pooled_projections": pooled,
            "encoder_hidden_states": torch.stack(states), "txt_ids": torch.zeros(512, 3),
            "img_ids": pipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32),
            "return_dict": False,
        }  # fmt: skip
        output = torch.func.functional_call(transformer, weights, (), inputs)[0]
        return pipeline._unpack_latents(output, height * 8, width * 8, 8)

    check_step(session, family, normalize, predict)


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    working = create(tmp_path, files, copy_source=True).working
    pipeline = _pipeline(working)
    conditioner = load_modules(working, denoiser=False, vae=False).text_conditioner(None)
    states, pooled, _ = pipeline.encode_prompt(list(PROMPTS), device=torch.device("cpu"))
    together = conditioner.encode(conditioner.tokenize(PROMPTS))
    assert together.lengths[:2] == (9, 1) and together.lengths[3] == 512
    assert torch.allclose(together["states"], states, atol=2e-5), "also of padding, which is attended to"
    assert torch.allclose(together["pooled"], pooled, atol=2e-5)
    alone = conditioner.encode(conditioner.tokenize(PROMPTS[:1]))
    assert torch.allclose(alone["states"], states[:1], atol=2e-5)
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (8, "") and counts[1] == (0, "") and conditioner.max_tokens == 511
    assert counts[3][0] == 600 and PROMPTS[3].endswith(counts[3][1]) and len(counts[3][1]) > 400


def _pipeline(working: Any) -> Any:
    from diffusers import FluxPipeline

    pipeline: Any = FluxPipeline.from_pretrained(working, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_previews_are_those_of_the_pipeline(tmp_path, files):
    """With dev's guidance of 3.5, and no other."""
    model = create(tmp_path, files, copy_source=True)
    pipeline = _pipeline(model.working)

    def draw(request):
        assert (request.cfg, request.guidance) == (1.0, 3.5)
        generator = torch.Generator().manual_seed(request.seed)
        noise = torch.randn(1, 16, request.height // 8, request.width // 8, generator=generator)
        return pipeline(
            request.prompt, height=request.height, width=request.width, num_inference_steps=request.steps,
            guidance_scale=3.5, latents=pipeline._pack_latents(noise, 1, 16, *noise.shape[2:]),
        ).images[0]  # fmt: skip

    check_previews(tmp_path, model, draw, lambda lora: pipeline.load_lora_weights(str(lora)), pipeline)


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    model, lora = check_lora_run(tmp_path, files, concept, [f"transformer.{layer}" for layer in LAYERS])
    check_lora_metadata(read_lora(lora), "flux1", "FLUX.1", "flux-1-dev")
    names = [f"transformer_transformer_blocks_1_attn_to_{part}" for part in "qkv"]
    check_merged(model, files, lora, 2 * 8 + 2 * 2, "double_blocks.1.img_attn.qkv.weight", names)


def test_full_training_writes_the_native_file(model, files, concept):
    check_full_training(model, files, concept, unchanged=lambda key: False)
