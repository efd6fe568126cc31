"""Every setting changes something that can be measured: a run with it differs from a run without it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dreambooth import actions, files
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.settings import SETTINGS, ModelFolder, Settings
from tests.training.conftest import SMALL, tensors

FULL = {"use_lora": False, "save_ckpt_after": False}
DURING = {"save_embedding_every": 1}
ONE_EPOCH = {"num_train_epochs": 1}
SCALED = {"num_train_epochs": 2}  # the weight changes from epoch to epoch
# key: (another value, settings under which it applies); those of WEIGHTS show in one epoch
WEIGHTS = {
    "train_unet": (False, {}),
    "stop_text_encoder": (0.5, {}),
    "seed": (1, {}),
    "num_train_epochs": (2, {}),
    "max_train_steps": (2, {}),
    "train_batch_size": (1, {}),
    "gradient_accumulation_steps": (2, {}),
    "max_grad_norm": (0.01, {}),
    "tenc_grad_clip_norm": (0.01, {}),
    "learning_rate": (1e-3, FULL),
    "txt_learning_rate": (1e-3, FULL),
    "lora_learning_rate": (1e-2, {}),
    "lora_txt_learning_rate": (1e-2, {}),
    "lr_scheduler": ("linear", {}),
    "lr_warmup_steps": (0.5, {}),
    "learning_rate_min": (5e-4, {"lr_scheduler": "cosine_annealing"}),
    "lr_cycles": (2, {"lr_scheduler": "cosine_with_restarts"}),
    "lr_factor": (0.5, {"lr_scheduler": "constant"}),
    "lr_power": (3, {"lr_scheduler": "polynomial"}),
    "lr_scale_pos": (1, {"lr_scheduler": "cosine_annealing"}),
    "optimizer": ("SGD Nesterov", {}),
    "optimizer_args": ("betas=(0.5, 0.9)", {}),
    "lora_type": ("LoHa", {}),
    "lora_dora": (True, {}),
    "use_lora_extended": (True, {}),
    "lora_conv_rank": (2, {"use_lora_extended": True}),
    "lora_conv_alpha": (1, {"use_lora_extended": True}),
    "lokr_factor": (2, {"lora_type": "LoKr"}),
    "lora_unet_rank": (2, {}),
    "lora_txt_rank": (2, {}),
    "lora_unet_alpha": (1, {}),
    "lora_txt_alpha": (1, {}),
    "resolution": (128, {}),
    "bucket_step": (64, {"resolution": 128}),
    "mixed_precision": ("bf16", {}),
    "full_mixed_precision": (True, {**FULL, "mixed_precision": "bf16"}),
    "attention": ("sliced", {}),
    "weight_decay": (1, {"lora_learning_rate": 0.1}),
    "tenc_weight_decay": (1, {"lora_txt_learning_rate": 0.1}),
    "offset_noise": (0.1, {}),
    "multires_noise_iterations": (3, {}),
    "multires_noise_discount": (0.8, {"multires_noise_iterations": 3}),
    "input_perturbation": (0.1, {}),
    "min_timestep": (500, {}),
    "max_timestep": (500, {}),
    "zero_terminal_snr": (True, {}),
    "loss_type": ("huber", {}),
    "huber_schedule": ("constant", {"loss_type": "huber"}),
    "huber_c": (0.3, {"loss_type": "huber"}),
    "min_snr_gamma": (5, {}),
    "debiased_estimation": (True, {}),
    "use_dream": (True, {}),
    "dream_detail_preservation": (2, {"use_dream": True}),
    "masked_loss": (True, {}),
    "unmasked_weight": (0.5, {"masked_loss": True}),
    "clip_skip": (2, {}),
    "prior_loss_weight": (5, {}),
    "hflip": (True, {}),
    "dynamic_img_norm": (True, {}),
    "shuffle_tags": (False, {}),
    "pad_tokens": (False, {}),
    "strict_tokens": (True, {}),
    "weighted_captions": (True, {}),
    "freeze_clip_normalization": (True, FULL),
    "prior_loss_scale": (True, SCALED),
    "prior_loss_target": (1, {**SCALED, "prior_loss_scale": True}),
    "prior_loss_weight_min": (0.5, {**SCALED, "prior_loss_scale": True}),
    "split_loss": (False, {}),
}
FILES = {
    "use_lora": (False, {"save_ckpt_after": False}),
    "save_embedding_every": (1, {}),
    "save_preview_every": (1, {}),
    "use_ema": (True, FULL),
    "sanity_prompt": ("a red star", {}),
    "custom_model_name": ("other", {}),
    "use_subdir": (True, {**FULL, "save_ckpt_after": True}),
    "save_ema": (False, {**FULL, "use_ema": True, "save_ckpt_after": True}),
    "infer_ema": (True, {**FULL, "use_ema": True, "save_ckpt_after": True}),
    "save_ckpt_during": (True, {**FULL, **DURING}),
    "save_ckpt_after": (True, FULL),
    "save_lora_during": (False, DURING),
    "save_lora_after": (False, {}),
    "save_state_during": (True, DURING),
    "save_state_after": (True, {}),
    "snapshots_to_keep": (0, {**DURING, "save_state_during": True, "num_train_epochs": 4}),
}
CANCELLED = {"save_ckpt_cancel": (True, FULL), "save_lora_cancel": (True, {}), "save_state_cancel": (False, {})}
PICTURES = {
    "scheduler": ("EulerAncestralDiscrete", {}),
    "sanity_seed": (1, {"sanity_prompt": "a red star"}),
}
# Measured elsewhere: the named test fails when the setting has no effect.
ELSEWHERE = {
    "deterministic": "tests/training/test_whole_model.py",
    "ema_on_cpu": "tests/training/test_whole_model.py",
    "save_every_steps": "tests/training/test_intervals.py",
    "preview_every_steps": "tests/training/test_intervals.py",
    "autosave_minutes": "tests/training/test_intervals.py",
    "epoch_pause_frequency": "tests/training/test_intervals.py",
    "epoch_pause_time": "tests/training/test_intervals.py",
    "sample_batch_size": "tests/training/test_class_images.py",
    "disable_class_matching": "tests/training/test_class_images.py",
    "validation_every": "tests/training/test_validation.py",
    "validation_share": "tests/training/test_validation.py",
    **dict.fromkeys(
        ("keep_tokens", "tag_dropout", "caption_dropout", "bucket_min_side", "bucket_max_side", "bucket_no_upscale"),
        "tests/dataset/test_variation.py::test_setting_changes_what_is_shown",
    ),
    "bucket_rule": "tests/dataset/test_kohya_rule.py::test_each_rule_gives_its_own_crops",
    "resolution_height": "tests/dataset/test_kohya_rule.py::test_each_rule_gives_its_own_crops",
    **dict.fromkeys(
        ("bucket_rule", "resolution_height"),
        "tests/dataset/test_kohya_rule.py::test_each_rule_gives_its_own_crops",
    ),
    "max_token_length": "tests/training/test_prompts.py::test_what_stands_beyond_the_limit_is_not_learned",
    "gradient_set_to_none": "tests/training/test_optimizers.py",
    "gradient_checkpointing": "tests/training/test_optimizers.py",
    "ema_decay": "tests/training/test_optimizers.py",
    "half_model": "tests/training/test_settings_work.py::test_half_model_halves_a_checkpoint",
    "save_thumbnail": "tests/training/test_settings_work.py::test_the_last_sample_is_put_into_the_files",
    "lora_weight": "tests/sampling/test_same_picture.py",
    "lora_txt_weight": "tests/sampling/test_same_picture.py",
}
TABLES = {"weights": WEIGHTS, "files": FILES, "cancelled": CANCELLED, "pictures": PICTURES}
ROWS = [(kind, key) for kind, table in TABLES.items() for key in table]


def test_every_setting_is_measured():
    measured = {key for table in TABLES.values() for key in table} | set(ELSEWHERE)
    assert measured == set(SETTINGS)


@pytest.fixture(scope="module")
def seen():
    """What runs without a setting came to, so that rows with the same start share one."""
    return {}


@pytest.fixture(scope="module")
def warm(created, tmp_path_factory):
    """The created model, to which the runs' caches are added: what is encoded once need not be again."""
    folder = tmp_path_factory.mktemp("warm") / "models"
    shutil.copytree(created, folder)
    return folder


@pytest.fixture
def afresh(warm, models_dir, mini):
    """Puts the model back as it was created, but for its caches."""

    def put_back():
        kept = warm / mini.cache.relative_to(models_dir)
        if mini.cache.exists():
            shutil.copytree(mini.cache, kept, dirs_exist_ok=True)
        shutil.rmtree(models_dir)
        shutil.copytree(warm, models_dir)

    return put_back


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), ROWS, ids=[key for _, key in ROWS])
def test_setting_has_an_effect(train, afresh, seen, monkeypatch, kind, key):
    monkeypatch.setattr(files, "_sync_with", lambda path, flags: None)  # no power cut is expected
    value, under = TABLES[kind][key]
    under = {**ONE_EPOCH, **under} if kind == "weights" else under
    assert value != {**dataclasses.asdict(Settings()), **SMALL, **under}[key]
    stop = (lambda event, controls: event["kind"] == "step" and controls.cancel()) if kind == "cancelled" else None
    look = {"weights": _weights, "files": _files, "cancelled": _files, "pictures": _pictures}[kind]
    samples = 1 if look in (_files, _pictures) else 0
    start = (kind, json.dumps(under, sort_keys=True))
    afresh()
    if start not in seen:
        seen[start] = look(train(on=stop, samples=samples, **under))
        afresh()
    changed = look(train(on=stop, samples=samples, **{**under, key: value}))
    afresh()
    assert changed != seen[start]


def test_half_model_halves_a_checkpoint(mini, mini_checkpoint, tmp_path):
    single = {key: t.float() if t.is_floating_point() else t for key, t in tensors(mini_checkpoint).items()}
    save_file(
        single, tmp_path / "single.safetensors", {"dreambooth.config": "{}"} | open_tensors(mini_checkpoint).metadata
    )
    actions.create(mini.folders, "single", tmp_path / "single.safetensors")
    model = ModelFolder(mini.folders, "single")
    full, _ = actions.generate_checkpoint(model)
    model.save(actions.configure(model, {"half_model": True}))
    half, _ = actions.generate_checkpoint(model)
    assert {t.dtype for t in tensors(full).values()} == {torch.float32, torch.int64}
    assert half.stat().st_size < 0.52 * full.stat().st_size


def test_the_last_sample_is_put_into_the_files(train, mini):
    outcome = train(sanity_prompt="a red star", save_preview_every=1, save_thumbnail=True)
    (lora,) = outcome.result.files
    checkpoint, _ = actions.generate_checkpoint(mini, loras=[lora])
    for path in (lora, checkpoint):
        said = open_tensors(path).metadata
        kind, _, data = said["modelspec.thumbnail"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 256
    assert said["modelspec.merged_from"] == lora.stem and said["modelspec.architecture"] == "stable-diffusion-v1"


def _weights(outcome):
    assert outcome.error is None
    return outcome.digest()


def _files(outcome):
    """Names and sizes of all results."""
    assert outcome.error is None
    roots = (outcome.model.folders.loras, outcome.model.folders.checkpoints, outcome.model.snapshots,
             outcome.model.samples, outcome.model.working)  # fmt: skip
    found = [
        p for root in roots if root.exists() for p in root.rglob("*") if p.is_file() and p.name != "fingerprint.json"
    ]
    found = sorted(p.relative_to(outcome.model.folders.models) for p in found)
    sizes = {str(p): (outcome.model.folders.models / p).stat().st_size for p in found if p.suffix != ".png"}
    contents = [_content(outcome.model.folders.models / p) for p in found if p.parts[0] == "Stable-diffusion"]
    return json.dumps(sizes), contents, [str(p) for p in found if p.suffix == ".png"]


def _content(checkpoint):
    """Of the middle block alone: enough to see whether EMA took its place."""
    return [t.sum().item() for key, t in tensors(checkpoint).items() if ".middle_block." in key]


def _pictures(outcome):
    assert outcome.error is None
    return [p.read_bytes() for p in sorted(outcome.model.samples.glob("*.png"))]
