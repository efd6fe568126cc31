"""Training, prompts and previews of Z-Image, against the classes and formulas of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dreambooth import actions
from dreambooth.checkpoints.lora import apply_lora
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.jobs import Controls, Events
from dreambooth.runs.preflight import preflight
from dreambooth.sampling.generate import SampleRequest, generate_images
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses
from dreambooth.training.session import Session
from tests.zimage import files as zimage
from tests.zimage.files import QUICK, create, is_same, random_lora, tensors_of


@pytest.fixture
def session(model, concept):
    config = actions.configure(model, {**QUICK, "timestep_sampling": "uniform", "timestep_shift": 1.0}, [concept])
    session = Session(preflight(model, config).context(Controls(), Events()))
    yield session
    session.close()


def test_loss_and_gradients_are_those_of_diffusers_script(session):
    """train_dreambooth_lora_z_image.py, in float64: latents, noise and timesteps drawn in our order."""
    with torch.no_grad():
        for number, layer in enumerate(session.layers.values()):
            layer.up.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    session.modules.denoiser.double()
    settings = session.settings
    batch = next(batch for batch in session.plan.epoch(settings.seed, 0, 2) if len(batch.instances) == 2)
    arguments = (session.denoiser, session.process, session.latents, session.prompts, session.inpainting, batch)
    losses = diffusion_losses(*arguments, generator_for(settings.seed, "noise", 0, 0), settings, prior_weight=1.0)
    losses.total.backward()

    generator = generator_for(settings.seed, "noise", 0, 0)
    moments = torch.stack([session.latents._moments[e.pixels_key] for e in batch.instances]).double()
    mean, std = moments.chunk(2, dim=1)
    config = zimage.VAE
    latents = mean + std * torch.randn(mean.shape, generator=generator)
    latents = (latents - config["shift_factor"]) * config["scaling_factor"]
    timesteps = (torch.rand(2, generator=generator) * 1000).clamp(min=1).double()
    noise = torch.randn(mean.shape, generator=generator).double()
    sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
    noisy_latents = (1.0 - sigmas) * latents + sigmas * noise

    transformer, factors, weights = _merged(session)
    states = [session.prompts.batch([e.caption])["states"][0].double() for e in batch.instances]
    outputs = torch.func.functional_call(
        transformer, weights, (list(noisy_latents.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000, states)
    )[0]
    prediction = -torch.stack(outputs, dim=0).squeeze(2)
    expected = torch.mean(((prediction - (noise - latents)) ** 2).reshape(2, -1), 1).mean()
    expected.backward()
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, layer in session.layers.items():
        for own, reference in zip((layer.up, layer.down), factors[name], strict=True):
            assert own.grad is not None and reference.grad is not None
            largest = reference.grad.abs().max().item()
            assert largest > 0 and torch.allclose(own.grad, reference.grad, rtol=1e-6, atol=1e-6 * largest)


def _merged(session: Session) -> tuple[nn.Module, dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, Any]]:
    """diffusers' module in float64, the LoRA's factors by name, and weights with the LoRA added."""
    transformer = nn.Module.double(zimage.make_modules()["transformer"].half())
    factors, weights = {}, dict(transformer.state_dict())
    for name, layer in session.layers.items():
        own = layer.trainable_parameters()
        up, down = (own[factor].detach().clone().requires_grad_() for factor in ("up", "down"))
        key = f"{name.removeprefix('diffusion_model.')}.weight"
        weights[key] = weights[key] + layer.scale * (up @ down)
        factors[name] = (up, down)
    return transformer, factors, weights


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    from diffusers import ZImagePipeline

    working = create(tmp_path, files, copy_source=True).working
    pipeline = ZImagePipeline.from_pretrained(working, local_files_only=True, torch_dtype=torch.float32)
    prompts = ["a zwx toy", "", " Größe 12345,\n\n  造相 it's <|im_end|> (red:1.2)", "many words " * 300]
    modules = load_modules(working, denoiser=False, vae=False)
    conditioner = modules.text_conditioner(None)
    expected, _ = pipeline.encode_prompt(list(prompts), torch.device("cpu"), do_classifier_free_guidance=False)
    together = conditioner.encode(conditioner.tokenize(prompts))
    for i, prompt in enumerate(prompts):
        alone = conditioner.encode(conditioner.tokenize([prompt]))
        assert together.lengths[i : i + 1] == alone.lengths == (len(expected[i]),)
        assert torch.allclose(alone["states"][0], expected[i], atol=2e-5)
        assert torch.allclose(together["states"][i, : len(expected[i])], expected[i], atol=2e-5)
    ids = conditioner.tokenize(["Hello, world!"]).ids[0].tolist()
    assert ids == [151644, 872, 198, 9707, 11, 1879, 0, 151645, 198, 151644, 77091, 198], "as published"
    counts = conditioner.count_with_overflow(prompts)
    assert counts[0] == (4, "") and counts[1] == (0, "") and conditioner.max_tokens == 509
    assert counts[3][0] == 601 and ("many words " * 300).endswith(counts[3][1]) and len(counts[3][1]) > 400
    long = "many words " * 254 + "many"
    assert conditioner.count_with_overflow([long, f"{long} w"]) == [(509, ""), (510, " w")]


def test_previews_are_those_of_the_pipeline(tmp_path, files):
    """ZImagePipeline, whose guidance scale counts from 0, with and without our LoRA; two prompts of one batch."""
    from diffusers import ZImagePipeline

    model = create(tmp_path, files, copy_source=True)
    pipeline = ZImagePipeline.from_pretrained(model.working, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    modules = load_modules(model.working)
    lora = random_lora(tmp_path / "lora.safetensors", model)
    plain = _compared(modules, pipeline)
    apply_lora(modules, read_lora(lora))
    pipeline.load_lora_weights(str(lora))
    assert (_compared(modules, pipeline) - plain).abs().max() > 20


def _compared(modules: Any, pipeline: Any) -> torch.Tensor:
    """Our images, which differ by at most 2/255 from the pipeline's."""
    requests = [
        SampleRequest("a zwx toy", "blurry, dark", 3, steps=3, cfg=4.0, width=64, height=96),
        SampleRequest("a toy", "", 4, steps=3, cfg=4.0, width=64, height=96),
        SampleRequest("a toy with a long description", "", 5, steps=2, cfg=1.0, width=64, height=64),
    ]
    own = list(generate_images(modules, requests, sampler="EulerDiscrete", batch_size=2))
    for request, image in zip(requests, own, strict=True):
        (expected,) = pipeline(
            request.prompt, request.height, request.width, request.steps, guidance_scale=request.cfg - 1,
            negative_prompt=request.negative, generator=torch.Generator().manual_seed(request.seed),
            sigmas=np.linspace(1, 1 / request.steps, request.steps).tolist(),  # not the default in older diffusers
        ).images  # fmt: skip
        difference = np.abs(np.asarray(expected, dtype=int) - np.asarray(image, dtype=int))
        assert difference.max() <= 2, request
    return torch.cat([torch.from_numpy(np.array(image)).flatten().int() for image in own])


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    weights = {}
    for name, steps in (("whole", [4]), ("resumed", [2, 4])):
        model = create(tmp_path / name, files)
        for number, n in enumerate(steps):
            settings = {**QUICK, "max_train_steps": n, "save_state_after": True, "gradient_checkpointing": True}
            config = actions.configure(model, settings, [concept])
            result = actions.train(model, config, resume="latest" if number else "")
        weights[name] = tensors_of(result.files[-1])
    assert is_same(weights["whole"], weights["resumed"])
    (preview, *_) = sorted(model.samples.glob("*.png"))
    assert Image.open(preview).size == (64, 64)
    layers = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"]
    layers += [f"feed_forward.w{i}" for i in (1, 2, 3)]
    assert weights["whole"].keys() == {
        f"diffusion_model.layers.{i}.{layer}.{tensor}"
        for i in range(2) for layer in layers for tensor in ("lora_A.weight", "lora_B.weight", "alpha")
    }  # fmt: skip
    file = read_lora(result.files[-1])
    assert file.metadata["ss_base_model_version"] == "z_image" and file.made_for == "Z-Image"
    assert file.metadata["modelspec.architecture"] == "Z-Image/lora"
    merged, verification = actions.generate_checkpoint(model, loras=[result.files[-1]], precision="fp32")
    assert verification.ok and verification.n_changed == 2 * 5
    fused, before = "layers.1.attention.qkv.weight", zimage.native_transformer()
    adapters = [file.weights[f"diffusion_model_layers_1_{layer.replace('.', '_')}"] for layer in layers[:3]]
    parts = before[fused].float().chunk(3)
    expected = torch.cat([adapter.apply(part, 1.0) for adapter, part in zip(adapters, parts, strict=True)])
    assert torch.equal(tensors_of(merged)[fused], expected) and not torch.equal(expected, before[fused].float())


def test_full_training_writes_the_native_file(model, files, concept):
    settings = {**QUICK, "use_lora": False, "learning_rate": 1e-3, "save_ckpt_after": True, "half_model": True}
    result = actions.train(model, actions.configure(model, settings, [concept]))
    made, before = tensors_of(result.files[-1]), tensors_of(files.transformer)
    assert list(made) == list(before)
    unchanged = {key for key, value in made.items() if torch.equal(value, before[key])}
    assert unchanged == {"norm_final.weight"}
