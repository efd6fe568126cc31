"""Model folders of the old extension are adopted, trained, exported and merged; nothing in them is lost.

The folders have the layout of the diffusers versions that wrote them: pickles or safetensors, former names of the VAE's
attention, schedulers of all kinds, a safety checker.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.adoption import KEPT, KEPT_SOURCE
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.settings import CreateOptions, Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests import mini_models
from tests.cli.commands import run

FORMER_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}

# The keys of five versions, with values that differ from today's defaults.
NOVEMBER = {
    "adam_beta1": 0.9, "adam_beta2": 0.99, "adam_epsilon": 1e-8, "adam_weight_decay": 0.02, "attention": "default",
    "center_crop": True, "concepts_path": "", "half_model": False, "hflip": True, "learning_rate": 2e-6,
    "lr_scheduler": "constant", "lr_warmup_steps": 0, "max_grad_norm": 1, "max_token_length": 75,
    "max_train_steps": 1000, "mixed_precision": "fp16", "not_cache_latents": True, "num_train_epochs": 1,
    "pad_tokens": True, "pretrained_vae_name_or_path": "", "prior_loss_weight": 1, "resolution": 64, "revision": 500,
    "sample_batch_size": 1, "save_embedding_every": 500, "save_preview_every": 250, "scale_lr": True,
    "scheduler": "euler-ancestral", "seed": 7, "train_batch_size": 2, "gradient_accumulation_steps": 3,
    "train_text_encoder": False, "use_8bit_adam": True, "use_concepts": False, "use_cpu": True, "use_ema": False,
}  # fmt: skip
DECEMBER = {
    **NOVEMBER, "epoch": 50, "has_ema": False, "lora_learning_rate": 1e-4, "lora_txt_learning_rate": 1e-4,
    "max_train_steps": 0, "num_train_epochs": 20, "save_use_epochs": True, "scale_lr": False, "scheduler": "dpm",
    "shuffle_tags": True, "train_text_encoder": True, "use_lora": False, "v2": False, "center_crop": False,
}  # fmt: skip
JANUARY = {
    "adamw_weight_decay": 0.05, "attention": "flash_attention", "cache_latents": False, "center_crop": False,
    "clip_skip": 1, "custom_model_name": "", "epoch": 0, "epoch_pause_frequency": 0.0, "epoch_pause_time": 0.0,
    "gradient_accumulation_steps": 1, "graph_smoothing": 50.0, "learning_rate": 5e-6, "learning_rate_min": 1e-6,
    "lora_learning_rate": 2e-4, "lora_model_name": "", "lora_rank": 8, "lora_txt_learning_rate": 1e-4,
    "lr_scheduler": "cosine", "mixed_precision": "fp16", "num_train_epochs": 100, "resolution": 64, "revision": 0,
    "save_embedding_every": 0, "save_preview_every": 0, "save_safetensors": False, "scheduler": "pndm",
    "snapshot": "", "stop_text_encoder": 75, "train_unet": True, "use_8bit_adam": False, "use_lora": True, "v2": False,
}  # fmt: skip
APRIL = {
    "attention": "xformers", "cache_latents": True, "deterministic": False, "disable_logging": True, "epoch": 3,
    "has_ema": True, "infer_ema": False, "learning_rate": 2e-6, "mixed_precision": "fp16", "noise_scheduler": "DEIS",
    "optimizer": "8Bit Adam", "resolution": 64, "revision": 300, "scheduler": "ddim", "snapshot": "300",
    "stop_text_encoder": 0.5, "tenc_weight_decay": 0.02, "tomesd": 0.5, "train_unet": True, "use_ema": True,
    "use_lora": False, "weight_decay": 0.01, "save_embedding_every": 25, "save_preview_every": 5,
}  # fmt: skip
SEPTEMBER = {
    **APRIL, "full_mixed_precision": True, "has_ema": False, "input_pertubation": True, "model_type": "v2x-512",
    "min_snr_gamma": 5.0, "noise_scheduler": "DDPM", "optimizer": "Torch AdamW", "use_ema": False, "train_unet": False,
    "stop_text_encoder": 0.2, "snapshot": "", "txt_learning_rate": 3e-6, "lr_warmup_steps": 500,
    "disable_logging": False,
}  # fmt: skip
VERSIONS = {
    "november": (NOVEMBER, {"former": True, "pickles": True, "scheduler": "EulerAncestralDiscreteScheduler"}),
    "december": (DECEMBER, {"former": True, "pickles": False, "scheduler": "PNDMScheduler"}),
    "january": (JANUARY, {"former": True, "pickles": True, "scheduler": "DDIMScheduler"}),
    "april": (APRIL, {"former": False, "pickles": False, "scheduler": "DEISMultistepScheduler", "ema": True}),
    "september": (SEPTEMBER, {"former": False, "pickles": False, "scheduler": "UniPCMultistepScheduler",
                              "model_type": "v2x-512"}),
}  # fmt: skip


@pytest.fixture
def old_folder(tmp_path, models_dir, subject_concepts):
    """Makes a folder; ``values`` are its db_config.json."""

    def make(name: str, values: dict[str, Any], *, model_type: str = "v1x", ema: bool = False, **layout: Any):
        source = mini_models.make(tmp_path / f"{name}.safetensors", model_type, ema=ema)
        model = ModelFolder(Folders(models_dir), name)
        actions.create(model.folders, name, source, CreateOptions(extract_ema=ema))
        shutil.rmtree(model.source)
        _in_former_layout(model.working, **layout)
        photos = tmp_path / "photos"
        photos.mkdir(exist_ok=True)
        shutil.copyfile(next((subject_concepts.parent / "subject").rglob("*.png")), photos / "1.png")
        concepts = [{"instance_data_dir": str(photos), "instance_prompt": "a zwx toy", "n_save_sample": 0,
                     "class_guidance_scale": 7.5, "is_valid": True, "num_class_images": 0}]  # fmt: skip
        config = {"model_name": name, "model_dir": str(model.root), "src": "C:\\models\\v1-5.ckpt",
                  "pretrained_model_name_or_path": str(model.working), "concepts_list": concepts, **values}  # fmt: skip
        model.config_path.write_text(json.dumps(config, indent=4))
        (model.backups).mkdir()
        (model.backups / "db_config_500.json").write_text("{}")
        model.source.mkdir()
        (model.source / "notes.txt").write_text("of the user")
        (model.root / "classifiers_0").mkdir()
        (model.root / "classifiers_0" / "1.jpg").write_bytes(b"a class image")
        return model, source

    return make


def _in_former_layout(
    working: Path, *, former: bool = False, pickles: bool = False, scheduler: str = "DDIMScheduler"
) -> None:
    for folder in [path for path in working.iterdir() if (path / "fingerprint.json").exists()]:
        (folder / "fingerprint.json").unlink()
        (path,) = folder.glob("*.safetensors")
        with open_tensors(path) as file:
            tensors = {_former_name(name, folder.name) if former else name: file.get(name) for name in file}
        if folder.name == "text_encoder":
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        path.unlink()
        if pickles:
            stem = "pytorch_model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
            torch.save(tensors, folder / f"{stem}.bin")
        else:
            write_tensors(path, tensors, {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config.pop("scaling_factor", None)
        (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": str(folder)}))
    index = json.loads((working / "model_index.json").read_text())
    index = {key: value for key, value in index.items() if not key.startswith(("_dreambooth", "image_encoder"))}
    index |= {"_diffusers_version": "0.10.2", "scheduler": ["diffusers", scheduler],
              "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPFeatureExtractor"]}  # fmt: skip
    (working / "model_index.json").write_text(json.dumps(index))
    config = {"_class_name": scheduler, "_diffusers_version": "0.10.2", **SCHEDULE, "trained_betas": None}
    (working / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    (working / "safety_checker").mkdir()
    (working / "safety_checker" / "pytorch_model.bin").write_bytes(b"a safety checker")


def _former_name(name: str, component: str) -> str:
    if component == "vae" and ".attentions." in name:
        for now, before in FORMER_ATTENTION.items():
            name = name.replace(now, before)
    return name


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file by its path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def values_in(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with open_tensors(path) as file:
        for key in file:
            yield key, file.get(key)


HERE = ("--set", "optimizer=Torch AdamW", "mixed_precision=no", "attention=default", "full_mixed_precision=false",
        "max_train_steps=2", "lr_warmup_steps=0", "save_state_cancel=false", "resolution=64")  # fmt: skip


@pytest.mark.parametrize("name", VERSIONS)
def test_a_folder_is_adopted_trained_exported_and_merged(old_folder, name, models_dir):
    values, layout = VERSIONS[name]
    model, _ = old_folder(name, values, **layout)
    before = contents(model.root)
    trained = run("train", name, *HERE, "--models-dir", models_dir)
    assert trained.returncode == 0, trained.stderr
    assert f"{name} was created by the old extension and was adopted" in trained.stderr
    now = contents(model.root)
    for path, digest in before.items():
        kept = path.replace("working", KEPT, 1) if path.startswith("working") else path
        kept = path.replace("source", KEPT_SOURCE, 1) if path.startswith("source") else kept
        assert now.get(kept) == digest or digest == now["backups/db_config_before_adoption.json"], path
    lora = ["--lora", *models_dir.glob("Lora/*")] if values.get("use_lora") else []
    exported = run("generate-ckpt", name, *lora, "--models-dir", models_dir, "--out", models_dir / "out.safetensors")
    assert exported.returncode == 0, exported.stderr
    assert "adopted" not in exported.stderr, "once"
    inspected = run("inspect", models_dir / "out.safetensors", "--json")
    assert inspected.returncode == 0 and "Stable Diffusion" in inspected.stdout
    has_ema = any(key.startswith("model_ema.") for key, _ in values_in(models_dir / "out.safetensors"))
    assert has_ema == bool(layout.get("ema"))


@pytest.mark.parametrize("ema", [False, True])
def test_with_its_source_the_exported_checkpoint_of_an_untrained_model_is_the_source(
    old_folder, models_dir, caplog, ema
):
    values = {**JANUARY, "src": "january.safetensors [e1441589a6]"}
    model, source = old_folder("january", values, former=True, pickles=True, ema=ema)
    shutil.rmtree(model.working / "ema_unet", ignore_errors=True)
    (models_dir / "Stable-diffusion").mkdir()
    shutil.move(source, models_dir / "Stable-diffusion" / source.name)
    path, _ = actions.generate_checkpoint(model)
    assert f"are those of {models_dir / 'Stable-diffusion' / source.name}" in caplog.text
    exported, original = (dict(values_in(p)) for p in (path, models_dir / "Stable-diffusion" / source.name))
    assert list(exported) == list(original)
    assert all(torch.equal(exported[key], tensor) and exported[key].dtype == tensor.dtype
               for key, tensor in original.items())  # fmt: skip


def test_ema_weights_of_a_trained_model_come_from_its_folder_and_not_from_the_source(old_folder, models_dir, caplog):
    values = {**DECEMBER, "src": "december.safetensors"}
    model, source = old_folder("december", values, ema=True, former=True)
    shutil.rmtree(model.working / "ema_unet")
    path = model.working / "unet" / "diffusion_pytorch_model.safetensors"
    trained = {key: value + 0.01 if key == "conv_out.bias" else value for key, value in values_in(path)}
    write_tensors(path, trained, {})
    (models_dir / "Stable-diffusion").mkdir()
    shutil.move(source, models_dir / "Stable-diffusion" / source.name)
    path, _ = actions.generate_checkpoint(model)
    assert not any(key.startswith("model_ema.") for key, _ in values_in(path))
    assert "of the source left out" in caplog.text


def test_another_model_in_the_place_of_the_source_is_not_used(old_folder, tmp_path, caplog):
    other = mini_models.make(tmp_path / "other.safetensors", "v2x-512")
    model, _ = old_folder("january", {**JANUARY, "src": str(other)}, former=True)
    actions.opened(model)
    assert "is another model" in caplog.text
    assert actions.generate_checkpoint(model)[1].ok


def remove(part: str):
    return lambda working: shutil.rmtree(working / part)


def truncate(working: Path) -> None:
    path = next((working / "unet").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


def change_family(working: Path) -> None:
    path = working / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 8}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("vae"), "has no vae"),
        (remove("unet"), "has no unet"),
        (lambda working: shutil.rmtree(working), "working does not exist"),
        (lambda working: next((working / "text_encoder").glob("*.safetensors")).unlink(), "has no weights"),
        (truncate, "truncated"),
        (change_family, "instruct-pix2pix"),
    ],
    ids=["no vae", "no unet", "no working", "no weights", "truncated", "other family"],
)
@pytest.mark.parametrize("command", ["check", "generate-ckpt"])
def test_a_folder_that_cannot_be_adopted_is_refused_and_stays_as_it_is(old_folder, models_dir, damage, reason, command):
    model, _ = old_folder("old", DECEMBER)
    damage(model.working)
    before = contents(model.root)
    result = run("check", "old", "--models-dir", models_dir)
    assert result.returncode == 1
    assert "was created by the old extension, and can't be used as it is" in result.stderr
    assert reason in result.stderr and "Nothing was changed." in result.stderr
    assert contents(model.root) == before


def test_a_full_disk_leaves_the_folder_as_it_is(old_folder, monkeypatch):
    model, _ = old_folder("old", DECEMBER)
    before = contents(model.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    with pytest.raises(UserError, match="only 1 kB is free"):
        actions.opened(model)
    assert {path for path in contents(model.root)} - before.keys() <= {"backups/db_config_before_adoption.json"}


def test_an_adoption_that_was_interrupted_before_the_end_is_completed(old_folder):
    model, _ = old_folder("old", {**SEPTEMBER, "model_type": "v1x"})
    old = model.config_path.read_bytes()
    actions.opened(model)
    model.config_path.write_bytes(old)
    assert actions.opened(model).load().info.prediction_type == "epsilon"
    assert not model.load().is_of_old_extension
    assert not (model.root / f"{KEPT}_2").exists(), "the weights are not copied again"


def test_an_own_model_that_lost_its_source_is_completed_too(mini, caplog):
    before = dict(values_in(mini.working / "unet" / "diffusion_pytorch_model.safetensors"))
    shutil.rmtree(mini.source)
    assert actions.generate_checkpoint(mini)[1].ok
    assert "has lost its folder source and was adopted" in caplog.text
    after = dict(values_in(mini.working / "unet" / "diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_shared_weights_are_copied_into_the_model(old_folder, models_dir):
    """LoRA models of 2023-04 could share one folder of weights."""
    model, _ = old_folder("old", JANUARY)
    shared = models_dir / "diffusers" / "shared" / "working"
    shared.parent.mkdir(parents=True)
    shutil.move(model.working, shared)
    before = contents(shared)
    values = json.loads(model.config_path.read_text())
    model.config_path.write_text(json.dumps({**values, "shared_diffusers_path": str(shared)}))
    assert actions.generate_checkpoint(model)[1].ok
    assert contents(shared) == before
    assert not (model.root / KEPT).exists()
