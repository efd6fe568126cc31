"""Training, prompts and previews of Anima, against the classes and formulas of diffusers and sd-scripts."""

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
from tests.anima import files as anima
from tests.zimage.files import QUICK, create, is_same, random_lora, tensors_of

PROMPTS = ["a zwx toy", "", " Größe 12345,\n\n  造相 it's <|im_end|> (red:1.2)", "many words " * 300]


@pytest.fixture
def session(model, concept):
    config = actions.configure(model, {**QUICK, "timestep_sampling": "uniform"}, [concept])
    session = Session(preflight(model, config).context(Controls(), Events()))
    yield session
    session.close()


def test_loss_and_gradients_are_those_of_the_scripts(session, monkeypatch):
    """sd-scripts' anima_train_network.py, in float64: latents, noise and timesteps drawn in our order."""
    anima.resize_zeros_without_torchvision(monkeypatch)
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
    latents = mean + std * torch.randn(mean.shape, generator=generator)
    config = anima.make_modules()["vae"].config
    center, spread = (
        torch.tensor(config[key], dtype=torch.float64).view(16, 1, 1) for key in ("latents_mean", "latents_std")
    )
    latents = (latents - center) / spread
    timesteps = (torch.rand(2, generator=generator) * 1000).clamp(min=1).double()
    noise = torch.randn(mean.shape, generator=generator).double()
    sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
    noisy_latents = (1.0 - sigmas) * latents + sigmas * noise

    transformer, factors, weights = _merged(session)
    states = torch.zeros(2, 512, anima.ADAPTER["target_dim"], dtype=torch.float64)
    for own, example in zip(states, batch.instances, strict=True):
        embeddings = session.prompts.batch([example.caption])["states"][0]
        own[: len(embeddings)] = embeddings
    prediction = torch.func.functional_call(
        transformer, weights, (noisy_latents.unsqueeze(2), timesteps / 1000, states),
        {"padding_mask": torch.zeros(1, 1, 64, 64), "return_dict": False},
    )[0].squeeze(2)  # fmt: skip
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
    transformer = nn.Module.double(anima.make_modules()["transformer"].half())
    factors, weights = {}, dict(transformer.state_dict())
    for name, layer in session.layers.items():
        own = layer.trainable_parameters()
        up, down = (own[factor].detach().clone().requires_grad_() for factor in ("up", "down"))
        (key,) = anima.TransformerNames().to_modules(f"{name.removeprefix('diffusion_model.')}.weight")
        weights[key] = weights[key] + layer.scale * (up @ down)
        factors[name] = (up, down)
    return transformer, factors, weights


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    pipeline = _pipeline(create(tmp_path, files, copy_source=True).working)
    encoders = pytest.importorskip("diffusers.modular_pipelines.anima.encoders")
    steps = pytest.importorskip("diffusers.modular_pipelines.anima.before_denoise")
    modules = load_modules(tmp_path / "models" / "dreambooth" / "z" / "working", denoiser=False, vae=False)
    conditioner = modules.text_conditioner(None)
    together = conditioner.encode(conditioner.tokenize(PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        inputs = encoders.AnimaTextEncoderStep.encode_prompt(
            pipeline, prompt, prepare_unconditional_embeds=False, device=torch.device("cpu"), dtype=torch.float32
        )
        expected = steps.AnimaTextConditioningStep._condition_prompt_embeds(
            pipeline, **{key: value for key, value in inputs.items() if not key.startswith("negative")},
            device=torch.device("cpu"), conditioning_dtype=torch.float32, output_dtype=torch.float32,
        )[0]  # fmt: skip
        alone = conditioner.encode(conditioner.tokenize([prompt]))
        length = alone.lengths[0]
        assert together.lengths[i] == length and not expected[length:].any() and expected[length - 1].any()
        assert torch.allclose(alone["states"][0], expected[:length], atol=2e-5)
        assert torch.allclose(together["states"][i, :length], expected[:length], atol=2e-5)
        assert not together["states"][i, length:].any()
    tokens = conditioner.tokenize(["Hello, world!"])
    assert tokens.qwen.ids[0].tolist() == [9707, 11, 1879, 0] and tokens.t5.ids[0].tolist() == [8774, 6, 296, 55, 1]
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (8, "") and counts[1] == (0, "") and conditioner.max_tokens == 511
    assert counts[3][0] == 600 and PROMPTS[3].endswith(counts[3][1]) and len(counts[3][1]) > 400
    assert conditioner.count_with_overflow(["造" * 600])[0][0] > 511, "T5 has one unknown token for all of them"


def _pipeline(working: Any) -> Any:
    """diffusers' AnimaModularPipeline with the files in a model's folder."""
    diffusers = pytest.importorskip("diffusers", minversion="0.39")
    transformers: Any = pytest.importorskip("transformers")

    classes = {
        "text_encoder": transformers.Qwen3Model, "tokenizer": transformers.Qwen2TokenizerFast,
        "t5_tokenizer": transformers.T5TokenizerFast,
        "text_conditioner": diffusers.AnimaTextConditioner, "transformer": diffusers.CosmosTransformer3DModel,
        "vae": diffusers.AutoencoderKLQwenImage, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    }  # fmt: skip
    pipeline = diffusers.AnimaAutoBlocks().init_pipeline()
    components = {name: one.from_pretrained(working / name, local_files_only=True) for name, one in classes.items()}
    pipeline.update_components(
        **{k: nn.Module.float(v) if isinstance(v, nn.Module) else v for k, v in components.items()}
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_previews_are_those_of_the_pipeline(tmp_path, files, monkeypatch):
    """With and without our LoRA, whose alpha, here its rank, diffusers can't read; two prompts of one batch."""
    anima.resize_zeros_without_torchvision(monkeypatch)
    model = create(tmp_path, files, copy_source=True)
    pipeline, modules = _pipeline(model.working), load_modules(model.working)
    plain = _compared(modules, pipeline)
    lora = random_lora(tmp_path / "lora.safetensors", model)
    apply_lora(modules, read_lora(lora))
    pipeline.load_lora_weights({k: v for k, v in tensors_of(lora).items() if not k.endswith(".alpha")})
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
        pipeline.guider.guidance_scale = request.cfg
        noise = torch.randn(1, 16, request.height // 8, request.width // 8,
                            generator=torch.Generator().manual_seed(request.seed))  # fmt: skip
        (expected,) = pipeline(
            prompt=request.prompt, negative_prompt=request.negative, height=request.height, width=request.width,
            num_inference_steps=request.steps, latents=noise.unsqueeze(2), output="images",
        )  # fmt: skip
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
    layers = [f"{part}_attn.{x}_proj" for part in ("self", "cross") for x in ("q", "k", "v", "output")]
    layers += ["mlp.layer1", "mlp.layer2"]
    assert weights["whole"].keys() == {
        f"diffusion_model.blocks.{i}.{layer}.{tensor}"
        for i in range(2) for layer in layers for tensor in ("lora_A.weight", "lora_B.weight", "alpha")
    }  # fmt: skip
    file = read_lora(result.files[-1])
    assert file.metadata["ss_base_model_version"] == "anima" and file.made_for == "Anima"
    assert file.metadata["modelspec.architecture"] == "Anima/lora"
    merged, verification = actions.generate_checkpoint(model, loras=[result.files[-1]], precision="fp32")
    assert verification.ok and verification.n_changed == len(layers) * 2
    made, before = tensors_of(merged), tensors_of(files.transformer)
    adapter = file.weights["diffusion_model_blocks_1_self_attn_q_proj"]
    key = "net.blocks.1.self_attn.q_proj.weight"
    assert torch.equal(made[key], adapter.apply(before[key].float(), 1.0)) and list(made) == list(before)


def test_full_training_writes_the_native_file(model, files, concept):
    settings = {**QUICK, "use_lora": False, "learning_rate": 1e-3, "save_ckpt_after": True, "half_model": True}
    result = actions.train(model, actions.configure(model, settings, [concept]))
    made, before = tensors_of(result.files[-1]), tensors_of(files.transformer)
    assert list(made) == list(before)
    changed = {key for key, value in made.items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if "llm_adapter" not in key}
