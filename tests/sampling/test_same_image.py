"""Other programs generate the same images with our files: same prompt, seed and sampler."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.cli import main
from dreambooth.runs.consistency import prompts_with_loras
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Concept, Folders, ModelFolder, Settings

PROMPT = "a zwx toy on a blue background"
REQUEST = SampleRequest(PROMPT, negative="a ring", seed=11, steps=8, cfg=5.0, width=128, height=128)


@pytest.fixture(scope="module")
def lora(created, subject_concepts, tmp_path_factory):
    """A LoRA that changes the images of "mini", text encoder included."""
    model = ModelFolder(Folders(Path(shutil.copytree(created, tmp_path_factory.mktemp("lora") / "models"))), "mini")
    concept = Concept(
        instance_data_dir=str(subject_concepts.parent / "subject"), instance_token="zwx", class_token="toy"
    )
    settings = {
        "use_lora": True, "lora_unet_rank": 8, "lora_unet_alpha": 4, "lora_txt_rank": 4, "use_lora_extended": True,
        "lora_learning_rate": 5e-3,
        "lora_txt_learning_rate": 5e-3, "max_train_steps": 15, "resolution": 64, "bucket_step": 32,
        "train_batch_size": 2, "save_preview_every": 0,
    }  # fmt: skip
    return actions.train(model, actions.configure(model, settings, [concept])).files[0]


def _pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _pipeline(working):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(
        working, torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )


def _sample_with(pipeline):
    image = pipeline(
        REQUEST.prompt, negative_prompt=REQUEST.negative, num_inference_steps=REQUEST.steps, guidance_scale=REQUEST.cfg,
        width=128, height=128, generator=torch.Generator().manual_seed(REQUEST.seed),
    ).images[0]  # fmt: skip
    return np.asarray(image).astype(int)


def test_lora_gives_the_same_image_in_diffusers_and_merged_into_a_checkpoint(mini, lora, tmp_path):
    peft = pytest.importorskip("peft")
    assert peft
    model = mini
    plain = _pixels(actions.sample(model, [REQUEST], tmp_path / "plain")[0])
    ours = _pixels(actions.sample(model, [REQUEST], tmp_path / "lora", loras=[lora])[0])
    assert np.abs(ours - plain).mean() > 1, "the LoRA has no effect"

    pipeline = _pipeline(model.working)
    assert np.abs(_sample_with(pipeline) - plain).max() <= 2
    pipeline.load_lora_weights(str(lora))
    assert np.abs(_sample_with(pipeline) - ours).max() <= 2

    checkpoint, _ = actions.generate_checkpoint(model, loras=[lora])
    merged = actions.create(model.folders, "merged", checkpoint)
    again = _pixels(actions.sample(type(model)(model.folders, merged.name), [REQUEST], tmp_path / "merged")[0])
    # The checkpoint is half precision, as its source: rounded weights, through 8 sampler steps.
    assert np.abs(again - ours).mean() < 1


def test_prompts_name_loras_as_in_the_webuis(mini, lora, tmp_path, capsys):
    """Text encoder and UNet weights, a subfolder, and a second prompt without it in the same call."""

    def images(*prompts, **options):
        requests = [dataclasses.replace(REQUEST, prompt=prompt) for prompt in prompts]
        return [_pixels(path) for path in actions.sample(mini, requests, tmp_path / "out", **options)]

    own = mini.folders.loras / "people" / "My Style.safetensors"
    own.parent.mkdir(parents=True)
    shutil.copy(lora, own)
    plain, tagged, named = images(
        REQUEST.prompt, f"<lora:My Style:0.5:1> {REQUEST.prompt}", f"{REQUEST.prompt} <LoRA: my style : te=0.5:unet=1>"
    )
    (given,) = images(REQUEST.prompt, loras=[own], lora_weights=[1], lora_text_weights=[0.5])
    assert np.array_equal(tagged, given) and np.array_equal(named, given)
    assert np.abs(given - plain).mean() > 0.5
    models = ["--models-dir", str(mini.folders.models), "--out", str(tmp_path / "cli"), "--steps", "1"]
    assert main(["sample", mini.name, "--prompt", "a toy", "--lora", "My Style", *models]) == 0
    for prompt, message in (
        ("<lora:My Stile:1> x", "<lora:My Stile:1>: there is no file My Stile, .*Did you mean My Style?"),
        ("<lora:My Style:much> x", "'much' is not a weight"),
        ("<hypernet:x:1> x", "hypernetworks can't be used"),
    ):
        capsys.readouterr()
        assert main(["sample", mini.name, "--prompt", prompt, *models]) == 1
        assert re.search(message, capsys.readouterr().err)
    assert main(["sample", mini.name, "--prompt", "x", "--negative", "<lora:My Style:1>", *models]) == 1
    assert "move it to the prompt" in capsys.readouterr().err


def test_weight_scales_the_lora_in_samples_and_checkpoints(mini, lora, tmp_path):
    model = mini
    plain = _pixels(actions.sample(model, [REQUEST], tmp_path / "plain")[0])
    none = _pixels(actions.sample(model, [REQUEST], tmp_path / "none", loras=[lora], lora_weights=[0])[0])
    half = _pixels(actions.sample(model, [REQUEST], tmp_path / "half", loras=[lora], lora_weights=[0.5])[0])
    assert np.array_equal(none, plain)
    assert np.abs(half - plain).mean() > 0.5
    changed = []
    for weights in ({"lora_weight": 0, "lora_txt_weight": 0}, {"lora_weight": 0}, {}):
        model.save(actions.configure(model, {"lora_weight": 1, "lora_txt_weight": 1, **weights}))
        changed.append(actions.generate_checkpoint(model, loras=[lora])[1].n_changed)
    n_text = sum(name.startswith("lora_te_") for name in read_lora(lora).weights)
    assert changed[:2] == [0, n_text] and changed[2] > n_text


def test_preview_equals_the_sample_generated_afterwards(mini, subject_concepts, tmp_path):
    concept = Concept(
        instance_data_dir=str(subject_concepts.parent / "subject"), instance_token="zwx", class_token="toy",
        save_sample_prompt=PROMPT, save_sample_negative_prompt=REQUEST.negative, sample_seed=REQUEST.seed,
        save_infer_steps=REQUEST.steps, save_guidance_scale=REQUEST.cfg,
    )  # fmt: skip
    settings = {"use_lora": True, "lora_learning_rate": 5e-3, "max_train_steps": 10, "resolution": 128,
                "bucket_step": 64, "train_batch_size": 2}  # fmt: skip
    result = actions.train(mini, actions.configure(mini, settings, [concept]))
    preview = _pixels(next(mini.samples.glob("*.png")))
    sampled = _pixels(actions.sample(mini, [REQUEST], tmp_path, loras=result.files[:1])[0])
    assert np.abs(preview - sampled).mean() < 1  # the file is half precision
    text = next(mini.samples.glob("*.txt")).read_text()
    assert PROMPT in text and f"Seed: {REQUEST.seed}" in text
    assert Image.open(next(mini.samples.glob("*.png"))).info["parameters"].startswith(PROMPT)


def test_an_image_does_not_depend_on_its_batch(mini, tmp_path):
    requests = [
        SampleRequest(f"a {c} star", seed=i, steps=4, cfg=4, width=64, height=64)
        for i, c in enumerate(("red", "blue", "green"))
    ]
    together = actions.sample(mini, requests, tmp_path / "together", batch_size=3)
    alone = [actions.sample(mini, [request], tmp_path / "alone")[0] for request in requests]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(_pixels(a) - _pixels(b)).max() <= 2


@pytest.mark.parametrize("sampler", ["PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
                                     "UniPCMultistep", "DEISMultistep"])  # fmt: skip
def test_every_sampler_generates_images(mini, tmp_path, sampler):
    mini.save(actions.configure(mini, {"scheduler": sampler}))
    path = actions.sample(mini, [SampleRequest("a red star", steps=6, cfg=4, width=64, height=64)], tmp_path)[0]
    assert _pixels(path).std() > 5


def test_loras_in_the_prompts_of_previews_and_class_images_are_warned_of():
    concepts = [Concept(save_sample_prompt="zwx <b> toy"), Concept(class_prompt="toy, <lora:style:1>")]
    warnings = prompts_with_loras(Settings(sanity_prompt="<lyco:x> a cup"), concepts)
    assert [line.split(": it names")[0] for line in warnings] == ["sanity_prompt", "concept 2: class_prompt"]
