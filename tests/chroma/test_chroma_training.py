"""Training, prompts and previews of Chroma, against the classes and formulas of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
from tests.flux import files as flux
from tests.flux.test_flux_training import LAYERS


@pytest.fixture
def concept(concept):
    """Images of one size have captions of different lengths."""
    (path,) = Path(concept.instance_data_dir).glob("*seen 1.png")
    path.rename(path.with_name("a zwx toy seen from far above 1.png"))
    return concept


def test_loss_and_gradients_are_those_of_sd_scripts(session, family):
    """flux_train_network.py --model_type chroma --apply_t5_attn_mask attends to the tokens of each prompt alone."""
    from diffusers import ChromaPipeline

    pipeline: Any = ChromaPipeline

    def normalize(latents):
        return (latents - flux.VAE["shift_factor"]) * flux.VAE["scaling_factor"]

    def predict(transformer, weights, noisy_latents, sigmas, states):
        height, width = noisy_latents.shape[2:]
        assert len(states[0]) != len(states[1]), "padding is masked"
        name = "time_text_embed.mod_proj"  # which files don't have, and which was rounded with the weights
        weights = {**weights, name: family.make_modules()["transformer"].get_buffer(name).double()}
        packed = pipeline._pack_latents(noisy_latents, 2, 16, height, width)
        outputs = [
            torch.func.functional_call(transformer, weights, (), {
                "hidden_states": packed[i : i + 1], "timestep": sigmas[i : i + 1],
                "encoder_hidden_states": states[i][None], "txt_ids": torch.zeros(len(states[i]), 3),
                "img_ids": pipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32),
                "return_dict": False,
            })[0]
            for i in range(2)
        ]  # fmt: skip
        return pipeline._unpack_latents(torch.cat(outputs), height * 8, width * 8, 8)

    check_step(session, family, normalize, predict)


def test_padding_is_masked_in_gradient_checkpointing_too(model):
    """diffusers leaves the mask of single blocks out."""
    modules = load_modules(model.working, vae=False)
    denoiser, conditioner = modules.family.make_denoiser(modules.denoiser), modules.text_conditioner(None)
    with torch.no_grad():
        conditioning = conditioner.encode(conditioner.tokenize(PROMPTS[:2]))
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = denoiser.predict(latents, torch.tensor([500.0, 300.0]), conditioning)
    modules.denoiser.train().enable_gradient_checkpointing()
    made = denoiser.predict(latents, torch.tensor([500.0, 300.0]), conditioning)
    assert torch.equal(made, expected)
    alone = denoiser.predict(latents[1:], torch.tensor([300.0]), conditioner.encode(conditioner.tokenize([""])))
    assert torch.allclose(made[1:], alone, atol=1e-5)


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    working = create(tmp_path, files, copy_source=True).working
    pipeline = _pipeline(working)
    conditioner = load_modules(working, denoiser=False, vae=False).text_conditioner(None)
    states, masks = pipeline._get_t5_prompt_embeds(list(PROMPTS), device=torch.device("cpu"))
    check_prompts(conditioner, [own[mask.bool()] for own, mask in zip(states, masks, strict=True)])
    lengths = conditioner.tokenize(PROMPTS).tokens.lengths
    assert lengths[0] == 10 and lengths[1] == 2 and lengths[3] == 512, "with one token of padding"
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (8, "") and counts[1] == (0, "") and conditioner.max_tokens == 511


def _pipeline(working: Any) -> Any:
    from diffusers import ChromaPipeline

    pipeline: Any = ChromaPipeline.from_pretrained(working, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_previews_are_those_of_the_pipeline(tmp_path, files):
    """With its mask as booleans: it would add its numbers 0 and 1 to the attention's logits."""
    model = create(tmp_path, files, copy_source=True)
    pipeline = _pipeline(model.working)

    def draw(request):
        encoded = pipeline.encode_prompt(request.prompt, request.negative, device=torch.device("cpu"))
        names = ("prompt_embeds", "", "prompt_attention_mask", "negative_prompt_embeds", "",
                 "negative_prompt_attention_mask")  # fmt: skip
        prompts = {name: part.bool() if "mask" in name else part for name, part in zip(names, encoded, strict=True)}
        prompts.pop("")
        generator = torch.Generator().manual_seed(request.seed)
        noise = torch.randn(1, 16, request.height // 8, request.width // 8, generator=generator)
        return pipeline(
            height=request.height, width=request.width, num_inference_steps=request.steps, guidance_scale=request.cfg,
            latents=pipeline._pack_latents(noise, 1, 16, *noise.shape[2:]), **prompts,
        ).images[0]  # fmt: skip

    check_previews(tmp_path, model, draw, lambda lora: pipeline.load_lora_weights(str(lora)))


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    model, lora = check_lora_run(tmp_path, files, concept, [f"transformer.{layer}" for layer in LAYERS])
    check_lora_metadata(read_lora(lora), "chroma", "Chroma", "chroma")
    names = [f"transformer_transformer_blocks_1_attn_to_{part}" for part in "qkv"]
    check_merged(model, files, lora, 2 * 8 + 2 * 2, "double_blocks.1.img_attn.qkv.weight", names)


def test_full_training_writes_the_native_file(model, files, concept):
    check_full_training(model, files, concept, unchanged=lambda key: False)
