"""Training, prompts and previews of FLUX.2 klein, against the classes and formulas of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline

from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.sampling import decoding
from tests.flow_models.files import create, tensors_of
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


def test_loss_and_gradients_are_those_of_diffusers_script(session, family):
    """train_dreambooth_lora_flux2_klein.py."""
    pipeline = Flux2KleinPipeline

    def predict(transformer, weights, noisy_latents, sigmas, states):
        prompts = torch.stack(states)
        arguments = {
            "hidden_states": pipeline._pack_latents(noisy_latents), "timestep": sigmas, "guidance": None,
            "encoder_hidden_states": prompts, "txt_ids": pipeline._prepare_text_ids(prompts),
            "img_ids": pipeline._prepare_latent_ids(noisy_latents), "return_dict": False,
        }  # fmt: skip
        (output,) = torch.func.functional_call(transformer, weights, (), arguments)
        images = pipeline._unpack_latents_with_ids(output, pipeline._prepare_latent_ids(noisy_latents))
        return images if isinstance(images, torch.Tensor) else torch.stack(images)

    check_step(session, family, lambda latents: latents, predict)


def test_latents_are_packed_and_normalized_as_by_the_pipeline(files, model, family):
    """With the statistics in the VAE's file; the mean of the posterior, as in the script."""
    modules = load_modules(model.working, denoiser=False, text_encoder=False)
    vae, codec = family.make_modules()["vae"].half().float(), modules.latent_codec
    assert (codec.channels, codec.pixel_multiple, codec.size(64, 48)) == (128, 16, (4, 3))
    pixels = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean, std = vae.bn.running_mean.view(-1, 1, 1), (vae.bn.running_var.view(-1, 1, 1) + 1e-4).sqrt()
        expected = (Flux2KleinPipeline._patchify_latents(vae.encode(pixels).latent_dist.mode()) - mean) / std
        latents, deviation = codec.moments(modules.vae, pixels)
        assert torch.allclose(latents, expected, atol=1e-5) and not deviation.any()
        assert torch.equal(codec.normalize(latents), latents)
        decoded = vae.decode(Flux2KleinPipeline._unpatchify_latents(expected * std + mean)).sample
        assert torch.allclose(codec.decode(modules.vae, latents), decoded, atol=1e-4)


def test_images_are_decoded_in_tiles_where_memory_is_short(model, monkeypatch):
    """Of the size of a tile in the VAE's latents, which are twice as large as the packed ones."""
    modules = load_modules(model.working, denoiser=False, text_encoder=False)
    latents = torch.randn(1, 128, 24, 18, generator=torch.Generator().manual_seed(0))
    (whole,) = decoding.decode_images(modules.latent_codec, modules.vae, latents)
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 0)
    (tiled,) = decoding.decode_images(modules.latent_codec, modules.vae, latents)
    assert tiled.size == whole.size == (288, 384)
    difference = np.abs(np.asarray(tiled, dtype=int) - np.asarray(whole, dtype=int))
    assert 0 < difference.mean() < 6


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs, and padded to 512 tokens."""
    working = create(tmp_path, files, copy_source=True).working
    pipeline = _pipeline(working)
    conditioner = load_modules(working, denoiser=False, vae=False).text_conditioner(None)
    expected, _ = pipeline.encode_prompt(list(PROMPTS), torch.device("cpu"))
    assert expected.shape == (4, 512, 48)
    check_prompts(conditioner, list(expected), pads=True)
    ids = conditioner.tokenize(["Hello, world!"]).ids[0].tolist()
    published = [151644, 872, 198, 9707, 11, 1879, 0, 151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
    assert ids == published + [151643] * 496
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (4, "") and counts[1] == (0, "") and conditioner.max_tokens == 509
    assert counts[3][0] == 601 and PROMPTS[3].endswith(counts[3][1]) and len(counts[3][1]) > 400


def _pipeline(working: Any) -> Any:
    pipeline = Flux2KleinPipeline.from_pretrained(working, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_previews_are_those_of_the_pipeline(tmp_path, files):
    """Which can't read alpha, nor modules in two spellings; negative prompts go in as embeddings."""
    model = create(tmp_path, files, copy_source=True)
    pipeline = _pipeline(model.working)

    def draw(request):
        negative, _ = pipeline.encode_prompt(request.negative, torch.device("cpu"))
        return pipeline(
            prompt=request.prompt, height=request.height, width=request.width, num_inference_steps=request.steps,
            guidance_scale=request.cfg, negative_prompt_embeds=negative,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]  # fmt: skip

    def load_lora(lora):
        tensors = {key: value for key, value in tensors_of(lora).items() if not key.endswith(".alpha")}
        own = {key: value for key, value in tensors.items() if key.startswith("diffusion_model.")}
        converted, _ = pipeline.lora_state_dict(own, return_lora_metadata=True)
        pipeline.load_lora_weights(converted | {key: tensors[key] for key in tensors.keys() - own.keys()})

    check_previews(tmp_path, model, draw, load_lora, pipeline)


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    """Query, key and value are trained apart, and named as hosts read them apart."""
    queries = [f"transformer.transformer_blocks.{{}}.attn.{x}" for x in ("to_q", "to_k", "to_v")]
    queries += [f"transformer.transformer_blocks.{{}}.attn.add_{x}_proj" for x in "qkv"]
    layers = [f"diffusion_model.double_blocks.{{}}.{stream}_{layer}" for stream in ("img", "txt")
              for layer in ("attn.proj", "mlp.0", "mlp.2")]  # fmt: skip
    layers += [f"diffusion_model.single_blocks.{{}}.linear{i}" for i in (1, 2)]
    modules = [layer.format(i) for i in range(2) for layer in (*queries, *layers)]
    model, lora = check_lora_run(tmp_path, files, concept, modules)
    check_lora_metadata(read_lora(lora), "flux_2_klein_4b", "FLUX.2 klein 4B")
    names = [query.format(1).replace(".", "_") for query in queries[3:]]
    check_merged(model, files, lora, 2 * (2 + 6 + 2), "double_blocks.1.txt_attn.qkv.weight", names)
    check_merged(model, files, lora, 20, "single_blocks.0.linear1.weight", ["diffusion_model_single_blocks_0_linear1"])


def test_full_training_writes_the_native_file(model, files, concept):
    check_full_training(model, files, concept, unchanged=lambda key: False)
