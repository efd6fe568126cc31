"""What each family of flow-matching models must pass: training and sampling, compared with classes of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dreambooth import actions
from dreambooth.checkpoints.lora import apply_lora
from dreambooth.checkpoints.lora_file import LoraFile, read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.models.layout import TensorRef
from dreambooth.sampling.generate import SampleRequest, for_model, generate_images
from dreambooth.settings import Concept, ModelFolder
from dreambooth.settings.training import ALL_LINEAR, DIFFUSERS_SPELLING
from dreambooth.training.lora_spelling import respelled
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses
from dreambooth.training.session import Session
from tests.flow_models.files import QUICK, Files, ModelFiles, Weights, create, is_same, random_lora, tensors_of

PROMPTS = ["a zwx toy", "", " Größe 12345,\n\n  造相 it's <|im_end|> (red:1.2)", "many words " * 300]
_REQUESTS = [
    SampleRequest("a zwx toy", "blurry, dark", 3, steps=3, cfg=4.0, width=64, height=96),
    SampleRequest("a toy", "", 4, steps=3, cfg=4.0, width=64, height=96),
    SampleRequest("a toy with a long description", "", 5, steps=2, cfg=1.0, width=64, height=64),
]

# diffusers' transformer and its weights, noisy latents, sigmas (B,), and the text embeddings of each prompt (L, D), to
# the velocity noise - latents.
Predict = Callable[[nn.Module, dict[str, Any], torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]


def check_step(
    session: Session, family: ModelFiles, normalize: Callable[[torch.Tensor], torch.Tensor], predict: Predict
) -> None:
    """Loss and gradients of a batch, in float64, are those of the formulas of diffusers' scripts: latents, noise and
    timesteps are drawn in our order. ``normalize``: latents of the VAE.
    """
    with torch.no_grad():
        for number, layer in enumerate(session.layers.values()):
            up = layer.trainable_parameters()["up"]
            up.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    session.modules.denoiser.double()
    settings = session.settings
    batch = next(batch for batch in session.plan.epoch(settings.seed, 0, 2) if len(batch.instances) == 2)
    arguments = (session.denoiser, session.process, session.latents, session.prompts, session.inpainting, batch)
    losses = diffusion_losses(*arguments, generator_for(settings.seed, "noise", 0, 0), settings, prior_weight=1.0)
    losses.total.backward()

    generator = generator_for(settings.seed, "noise", 0, 0)
    moments = torch.stack([session.latents._moments[e.pixels_key] for e in batch.instances]).double()
    mean, std = moments.chunk(2, dim=1)
    latents = normalize(mean + std * torch.randn(mean.shape, generator=generator))
    timesteps = (torch.rand(2, generator=generator) * 1000).clamp(min=1).double()
    noise = torch.randn(mean.shape, generator=generator).double()
    sigmas = timesteps / 1000
    noisy_latents = (1.0 - sigmas.view(-1, 1, 1, 1)) * latents + sigmas.view(-1, 1, 1, 1) * noise

    transformer, factors, weights = _merged(session, family)
    states = [session.prompts.batch([e.caption])["states"][0].double() for e in batch.instances]
    prediction = predict(transformer, weights, noisy_latents, sigmas, states)
    expected = torch.mean(((prediction - (noise - latents)) ** 2).reshape(2, -1), 1).mean()
    expected.backward()
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, layer in session.layers.items():
        own_factors = layer.trainable_parameters()
        for own, reference in zip((own_factors["up"], own_factors["down"]), factors[name], strict=True):
            assert own.grad is not None and reference.grad is not None
            largest = reference.grad.abs().max().item()
            assert largest > 0 and torch.allclose(own.grad, reference.grad, rtol=1e-6, atol=1e-6 * largest)


def _merged(
    session: Session, family: ModelFiles
) -> tuple[nn.Module, dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, Any]]:
    """diffusers' module in float64, the LoRA's factors by name, and weights with the LoRA added."""
    transformer = nn.Module.double(family.make_modules()["transformer"].half())
    factors, weights = {}, dict(transformer.state_dict())
    layout = session.modules.layout
    refs = [TensorRef("transformer", key) for key in weights if key.endswith(".weight")]
    keys = {name: ref.name for ref in refs for name in layout.adapter_names(ref)[:1]}
    for name, layer in session.layers.items():
        own = layer.trainable_parameters()
        up, down = (own[factor].detach().clone().requires_grad_() for factor in ("up", "down"))
        weights[keys[name]] = weights[keys[name]] + layer.scale * (up @ down)
        factors[name] = (up, down)
    return transformer, factors, weights


def check_prompts(conditioner: Any, expected: Sequence[torch.Tensor], pads: bool = False) -> None:
    """The embeddings of :data:`PROMPTS` (L, D), one by one and in a batch. ``pads``: whether they have padding."""
    together = conditioner.encode(conditioner.tokenize(PROMPTS))
    for i, (prompt, embeddings) in enumerate(zip(PROMPTS, expected, strict=True)):
        alone = conditioner.encode(conditioner.tokenize([prompt]))
        length = len(embeddings)
        assert together.lengths[i : i + 1] == alone.lengths and (pads or alone.lengths == (length,))
        assert torch.allclose(alone["states"][0], embeddings, atol=2e-5)
        assert torch.allclose(together["states"][i, :length], embeddings, atol=2e-5)


def check_previews(
    tmp_path: Path,
    model: ModelFolder,
    draw: Callable[[SampleRequest], Any],
    load_lora: Callable[[Path], None],
    pipeline: Any = None,
) -> None:
    """Images differ by at most 2/255 from those that ``draw`` makes with a pipeline of diffusers, which ``load_lora``
    gives a LoRA of all layers that can have one, with and without it. Two prompts are in one batch. ``pipeline`` loads
    it in diffusers' spelling as it is.
    """
    modules = load_modules(model.working)
    plain = _compared(modules, draw)
    lora = random_lora(tmp_path / "lora.safetensors", model, ALL_LINEAR)
    apply_lora(modules, read_lora(lora))
    load_lora(lora)
    assert (_compared(modules, draw) - plain).abs().max() > 20
    if pipeline is not None:
        pipeline.unload_lora_weights()
        file = read_lora(lora)
        adapters = {file.names[name]: adapter for name, adapter in file.weights.items()}
        other = tmp_path / "diffusers.safetensors"
        write_lora(other, respelled(adapters, model, DIFFUSERS_SPELLING), {}, torch.float32)
        pipeline.load_lora_weights(str(other))
        assert (_compared(modules, draw) - plain).abs().max() > 20


def _compared(modules: Any, draw: Callable[[SampleRequest], Any]) -> torch.Tensor:
    requests = [for_model(request, modules.family, modules.scheduler_config) for request in _REQUESTS]
    own = list(generate_images(modules, requests, sampler="EulerDiscrete", batch_size=2))
    for request, image in zip(requests, own, strict=True):
        difference = np.abs(np.asarray(draw(request), dtype=int) - np.asarray(image, dtype=int))
        assert difference.max() <= 2, request
    return torch.cat([torch.from_numpy(np.array(image)).flatten().int() for image in own])


def check_lora_run(tmp_path: Path, files: Files, concept: Concept, modules: Sequence[str]) -> tuple[ModelFolder, Path]:
    """A run of four steps that is resumed after two ends with the same LoRA, which has all of ``modules``, named as in
    its file, and can be merged. Returned are the model and the LoRA.
    """
    weights: dict[str, Weights] = {}
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
    tensors = ("lora_A.weight", "lora_B.weight", "alpha")
    assert weights["whole"].keys() == {f"{module}.{tensor}" for module in modules for tensor in tensors}
    return model, result.files[-1]


def check_lora_metadata(file: LoraFile, base_model_version: str, title: str, architecture: str = "") -> None:
    assert file.metadata["ss_base_model_version"] == base_model_version and file.made_for == title
    assert file.metadata["modelspec.architecture"] == f"{architecture or title}/lora"


def check_merged(model: ModelFolder, files: Files, lora: Path, n_changed: int, key: str, names: Sequence[str]) -> None:
    """A checkpoint with the LoRA. ``key``: a tensor of the transformer's file, which consists of the modules that have
    these ``names`` in the LoRA, with underscores.
    """
    merged, verification = actions.generate_checkpoint(model, loras=[lora], precision="fp32")
    assert verification.ok and verification.n_changed == n_changed
    made, before = tensors_of(merged), tensors_of(files.transformer)
    adapters = [read_lora(lora).weights[name] for name in names]
    parts = before[key].float().chunk(len(adapters))
    expected = torch.cat([adapter.apply(part, 1.0) for adapter, part in zip(adapters, parts, strict=True)])
    assert torch.equal(made[key], expected) and not torch.equal(expected, before[key].float())
    assert list(made) == list(before)


def check_full_training(model: ModelFolder, files: Files, concept: Concept, unchanged: Callable[[str], bool]) -> None:
    """It writes the native file, in which all tensors but those that are ``unchanged`` differ from the source."""
    settings = {**QUICK, "use_lora": False, "learning_rate": 1e-3, "save_ckpt_after": True, "half_model": True}
    result = actions.train(model, actions.configure(model, settings, [concept]))
    made, before = tensors_of(result.files[-1]), tensors_of(files.transformer)
    assert list(made) == list(before)
    assert {key for key in made if torch.equal(made[key], before[key])} == {key for key in before if unchanged(key)}
