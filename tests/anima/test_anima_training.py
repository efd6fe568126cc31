"""Training, prompts and previews of Anima, against the classes and formulas of diffusers and sd-scripts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from tests.anima import files as anima
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


def test_loss_and_gradients_are_those_of_the_scripts(session, family, monkeypatch):
    """sd-scripts' anima_train_network.py."""
    anima.resize_zeros_without_torchvision(monkeypatch)
    config = family.make_modules()["vae"].config
    mean, std = (torch.tensor(config[f"latents_{x}"], dtype=torch.float64).view(16, 1, 1) for x in ("mean", "std"))

    def predict(transformer, weights, noisy_latents, sigmas, states):
        prompts = torch.stack([F.pad(own, (0, 0, 0, 512 - len(own))) for own in states])
        options = {"padding_mask": torch.zeros(1, 1, 64, 64), "return_dict": False}
        arguments = (noisy_latents.unsqueeze(2), sigmas, prompts)
        return torch.func.functional_call(transformer, weights, arguments, options)[0].squeeze(2)

    check_step(session, family, lambda latents: (latents - mean) / std, predict)


def test_prompts_are_encoded_as_by_the_pipeline(tmp_path, files):
    """Also those that are cut off, with the files that are written for other programs."""
    working = create(tmp_path, files, copy_source=True).working
    pipeline = _pipeline(working)
    conditioner = load_modules(working, denoiser=False, vae=False).text_conditioner(None)
    expected = [_encoded(pipeline, prompt) for prompt in PROMPTS]
    lengths = [conditioner.tokenize([prompt]).t5.lengths[0] for prompt in PROMPTS]
    for length, embeddings in zip(lengths, expected, strict=True):
        assert not embeddings[length:].any() and embeddings[length - 1].any()
    check_prompts(conditioner, [own[:length] for length, own in zip(lengths, expected, strict=True)])
    together = conditioner.encode(conditioner.tokenize(PROMPTS))
    assert not any(states[length:].any() for length, states in zip(lengths, together["states"], strict=True))
    tokens = conditioner.tokenize(["Hello, world!"])
    assert tokens.qwen.ids[0].tolist() == [9707, 11, 1879, 0] and tokens.t5.ids[0].tolist() == [8774, 6, 296, 55, 1]
    counts = conditioner.count_with_overflow(PROMPTS)
    assert counts[0] == (8, "") and counts[1] == (0, "") and conditioner.max_tokens == 511
    assert counts[3][0] == 600 and PROMPTS[3].endswith(counts[3][1]) and len(counts[3][1]) > 400
    assert conditioner.count_with_overflow(["造" * 600])[0][0] > 511, "T5 has one unknown token for all of them"


def _encoded(pipeline: Any, prompt: str) -> torch.Tensor:
    """The transformer's text embeddings (L, D)."""
    encoders = pytest.importorskip("diffusers.modular_pipelines.anima.encoders")
    steps = pytest.importorskip("diffusers.modular_pipelines.anima.before_denoise")
    inputs = encoders.AnimaTextEncoderStep.encode_prompt(
        pipeline, prompt, prepare_unconditional_embeds=False, device=torch.device("cpu"), dtype=torch.float32
    )
    return steps.AnimaTextConditioningStep._condition_prompt_embeds(
        pipeline, **{key: value for key, value in inputs.items() if not key.startswith("negative")},
        device=torch.device("cpu"), conditioning_dtype=torch.float32, output_dtype=torch.float32,
    )[0]  # fmt: skip


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
    """Which can't read alpha; it is the rank here."""
    anima.resize_zeros_without_torchvision(monkeypatch)
    model = create(tmp_path, files, copy_source=True)
    pipeline = _pipeline(model.working)

    def draw(request):
        pipeline.guider.guidance_scale = request.cfg
        noise = torch.randn(1, 16, request.height // 8, request.width // 8,
                            generator=torch.Generator().manual_seed(request.seed))  # fmt: skip
        return pipeline(
            prompt=request.prompt, negative_prompt=request.negative, height=request.height, width=request.width,
            num_inference_steps=request.steps, latents=noise.unsqueeze(2), output="images",
        )[0]  # fmt: skip

    def load_lora(lora):
        pipeline.load_lora_weights({k: v for k, v in tensors_of(lora).items() if not k.endswith(".alpha")})

    check_previews(tmp_path, model, draw, load_lora, pipeline)


def test_lora_run_is_resumed_bit_exactly_and_its_file_is_complete(tmp_path, files, concept):
    layers = [f"{part}_attn.{x}_proj" for part in ("self", "cross") for x in ("q", "k", "v", "output")]
    layers += ["mlp.layer1", "mlp.layer2"]
    modules = [f"diffusion_model.blocks.{i}.{layer}" for i in range(2) for layer in layers]
    model, lora = check_lora_run(tmp_path, files, concept, modules)
    check_lora_metadata(read_lora(lora), "anima", "Anima")
    key = "net.blocks.1.self_attn.q_proj.weight"
    check_merged(model, files, lora, len(modules), key, ["diffusion_model_blocks_1_self_attn_q_proj"])


def test_full_training_writes_the_native_file(model, files, concept):
    check_full_training(model, files, concept, unchanged=lambda key: "llm_adapter" in key)
