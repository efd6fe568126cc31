"""Every setting has its effect: one row each, with two values and the expected difference between their runs.

The losses distinguish three kinds of effect. A setting that changes the UNet's input or target changes the very first
loss; one that changes the optimizer step leaves the first loss bit-identical and changes the weights; one that changes
files or images changes neither. The UNet's inputs and the losses are compared, step by step, with the reference in
reference_steps.py, which is computed from the settings.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dreambooth import actions
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.settings import SETTINGS, ModelFolder, Settings
from dreambooth.training.schedules import lr_curves
from tests.training.conftest import SMALL, tensors, working_tensors
from tests.training.consequences import (
    Consequence,
    RunSummary,
    as_written_out,
    buckets,
    conv_rank,
    falls,
    images_differ,
    in_bf16,
    keys,
    loss_is,
    moves,
    n_files,
    n_images,
    n_steps,
    rank,
    rates,
    rounds_other,
    shapes,
    shortest_sides,
    shrinks,
    stand_still,
    steps_other,
    takes_less,
    total_as_written_out,
)
from tests.training.reference_steps import RecordedStep, recording

# -- the table ---------------------------------------------------------------------------------------------------

FULL = {"use_lora": False, "save_ckpt_after": False}
TWO = {"num_train_epochs": 2}
SGD = {"optimizer": "SGD Nesterov"}


@dataclass
class Row:
    """A setting's two values, other settings that it needs, and the expected difference."""

    before: Any
    after: Any
    consequence: Consequence
    under: Mapping[str, Any] = field(default_factory=dict)
    samples: bool = False
    planned: bool = False  # of the learning rates alone, which test_schedules.py compares with those of a run

    def settings(self, key: str, value: Any) -> dict[str, Any]:
        return {"num_train_epochs": 1, **self.under, key: value}


@dataclass
class PlannedRates:
    """In place of a run, for rows of its learning rates."""

    rates: list[float]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PlannedRates:
        return cls([rate for _, rate in lr_curves(Settings(**values), 3)["denoiser"]])


# Five images of two shapes and batch size 2: three steps per epoch.
TABLE = {
    "train_unet": Row(True, False, lambda a, b: a.moved("unet") > 0 == b.moved("unet") and b.moved("te") > 0),
    "stop_text_encoder": Row(1.0, 0.4, moves("te", "less")),
    "seed": Row(420420, 1, as_written_out),
    "num_train_epochs": Row(1, 2, n_steps(3, 6)),
    "max_train_steps": Row(0, 2, n_steps(3, 2)),
    "train_batch_size": Row(2, 1, n_steps(3, 5)),
    "gradient_accumulation_steps": Row(1, 2, n_steps(3, 2)),
    "max_grad_norm": Row(1.0, 1e-4, moves("unet", "less"), SGD),
    "clip_each_tensor": Row(False, True, moves("unet", "further"), {**SGD, "max_grad_norm": 1e-4}),
    "tenc_grad_clip_norm": Row(0.0, 1e-6, moves("te", "less"), SGD),
    "learning_rate": Row(1e-4, 1e-3, moves("unet", "further"), FULL),
    "txt_learning_rate": Row(1e-4, 1e-3, moves("te", "further"), FULL),
    "lora_learning_rate": Row(1e-3, 1e-2, moves("unet", "further")),
    "lora_txt_learning_rate": Row(1e-3, 1e-2, moves("te", "further")),
    "lr_scheduler": Row("constant", "linear_with_warmup", rates(falls), planned=True),
    "lr_warmup_steps": Row(0, 0.5, rates(lambda lrs: lrs[0] < lrs[-1] == 1e-3), planned=True),
    "learning_rate_min": Row(
        1e-6, 5e-4, rates(lambda lrs: min(lrs) >= 5e-4), {"lr_scheduler": "cosine_annealing"}, planned=True
    ),
    "lr_cycles": Row(1, 2, rates(lambda lrs: lrs[2] > lrs[1]), {"lr_scheduler": "cosine_with_restarts"}, planned=True),
    "lr_factor": Row(1.0, 0.5, rates(lambda lrs: lrs[0] == 5e-4 < lrs[-1]), {"lr_scheduler": "constant"}, planned=True),
    "lr_power": Row(1.0, 3.0, rates(lambda lrs: lrs[1] < 5e-4), {"lr_scheduler": "polynomial"}, planned=True),
    "lr_scale_pos": Row(0.5, 1.0, rates(falls), {"lr_scheduler": "cosine_annealing"}, planned=True),
    "optimizer": Row("Torch AdamW", "SGD Nesterov", steps_other),
    "optimizer_args": Row("", "betas=(0.5, 0.9)", steps_other),
    "lora_type": Row("LoRA", "LoHa", keys("lora_unet", "hada_w1_a", gone="lora_down")),
    "lora_layers": Row("attention", "attention+mlp", keys("lora_unet", "ff_net_2")),
    "lora_ranks": Row("", "*.attn1.* = 2", shapes("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
                                                  "lora_down.weight", 4, 2, rank)),
    "lora_dora": Row(False, True, keys("lora_unet", "dora_scale")),
    "use_lora_extended": Row(False, True, keys("lora_unet", "resnets_0_conv1.lora_down")),
    "lora_conv_rank": Row(
        4, 2, shapes("lora_unet_down_blocks_0_resnets_0_conv1", "lora_down.weight", 4, 2, conv_rank),
        {"use_lora_extended": True},
    ),
    "lora_conv_alpha": Row(
        0.0, 1.0, shapes("lora_unet_down_blocks_0_resnets_0_conv1", "alpha", 4.0, 1.0, float),
        {"use_lora_extended": True},
    ),
    "lokr_factor": Row(
        0, 2, lambda a, b: shortest_sides(b, "lokr_w1") == {2} != shortest_sides(a, "lokr_w1"), {"lora_type": "LoKr"}
    ),
    "lora_unet_rank": Row(4, 2, shapes("lora_unet", "lora_down.weight", 4, 2, rank)),
    "lora_txt_rank": Row(4, 2, shapes("lora_te", "lora_down.weight", 4, 2, rank)),
    "lora_unet_alpha": Row(0.0, 1.0, shapes("lora_unet", "alpha", 4.0, 1.0, float)),
    "lora_txt_alpha": Row(0.0, 1.0, shapes("lora_te", "alpha", 4.0, 1.0, float)),
    "lora_unet_dropout": Row(0.0, 0.5, steps_other),  # the second factor is still zero in the first step
    "lora_txt_dropout": Row(0.0, 0.5, steps_other),
    "resolution": Row(64, 128, buckets({(64, 64)}, {(128, 128), (160, 96)})),
    "bucket_step": Row(32, 64, buckets({(128, 128), (160, 96)}, {(128, 128)}), {"resolution": 128}),
    "mixed_precision": Row("no", "bf16", rounds_other),
    "full_mixed_precision": Row(
        False, True, lambda a, b: in_bf16(b) and not in_bf16(a), {**FULL, "mixed_precision": "bf16"}
    ),
    "base_precision": Row("full", "int8", rounds_other),
    "attention": Row("default", "sliced", rounds_other),
    "channels_last": Row(False, True, rounds_other),
    "weight_decay": Row(0.0, 1.0, shrinks("unet"), {**FULL, "learning_rate": 1e-3}),
    "tenc_weight_decay": Row(0.0, 1.0, shrinks("te"), {**FULL, "txt_learning_rate": 1e-3}),
    "offset_noise": Row(0.0, 0.1, as_written_out),
    "multires_noise_iterations": Row(0, 3, as_written_out),
    "multires_noise_discount": Row(0.3, 0.8, as_written_out, {"multires_noise_iterations": 3}),
    "input_perturbation": Row(0.0, 0.1, as_written_out),
    "min_timestep": Row(0, 500, loss_is("less")),  # the loss is smaller where there is much noise
    "max_timestep": Row(1000, 500, loss_is("more")),
    "timestep_sampling": Row("uniform", "logit_normal", as_written_out),
    "timestep_mean": Row(0.0, 2.0, as_written_out, {"timestep_sampling": "logit_normal"}),
    "timestep_std": Row(1.0, 0.3, as_written_out, {"timestep_sampling": "logit_normal"}),
    "sigmoid_scale": Row(1.0, 3.0, as_written_out, {"timestep_sampling": "sigmoid"}),
    "mode_scale": Row(1.29, 0.0, as_written_out, {"timestep_sampling": "mode"}),
    "timestep_shift": Row(1.0, 8.0, as_written_out),
    "zero_terminal_snr": Row(False, True, as_written_out),
    "loss_type": Row("l2", "huber", as_written_out),
    "huber_schedule": Row("snr", "constant", as_written_out, {"loss_type": "huber"}),
    "huber_c": Row(0.1, 0.3, as_written_out, {"loss_type": "huber"}),
    "min_snr_gamma": Row(0.0, 5.0, loss_is("less")),
    "debiased_estimation": Row(False, True, as_written_out),
    "use_dream": Row(False, True, as_written_out),
    "dream_detail_preservation": Row(0.5, 2.0, as_written_out, {"use_dream": True}),
    "masked_loss": Row(False, True, loss_is("less")),
    "unmasked_weight": Row(0.1, 0.5, loss_is("more"), {"masked_loss": True}),
    "clip_skip": Row(1, 2, as_written_out),
    "prior_loss_weight": Row(0.75, 5.0, total_as_written_out),
    "prior_loss_scale": Row(False, True, total_as_written_out, TWO),
    "prior_loss_target": Row(100, 1, total_as_written_out, {**TWO, "prior_loss_scale": True}),
    "prior_loss_weight_min": Row(0.1, 0.5, total_as_written_out, {**TWO, "prior_loss_scale": True}),
    "split_loss": Row(True, False, total_as_written_out),
    "hflip": Row(False, True, as_written_out),
    "shuffle_tags": Row(True, False, as_written_out),
    "pad_tokens": Row(True, False, as_written_out),
    "strict_tokens": Row(False, True, as_written_out),
    "weighted_captions": Row(False, True, as_written_out),
    "freeze_clip_normalization": Row(False, True, stand_still("layer_norm"), FULL),
    # files
    "save_preview_every": Row(0, 1, n_images(1, 2), TWO, samples=True),
    "use_ema": Row(False, True, n_files(0, 1, "ema_unet", ".safetensors"), FULL),
    "sanity_prompt": Row("", "a red star", n_images(1, 2), samples=True),
    "save_ema": Row(
        True, False, takes_less("Stable-diffusion/"), {**FULL, "use_ema": True, "save_ckpt_after": True}
    ),
    "infer_ema": Row(
        False, True, lambda a, b: images_differ(a, b) and a.middle != b.middle,
        {**FULL, "use_ema": True, "save_ckpt_after": True, "learning_rate": 1e-3},
        samples=True,
    ),
    "ema_precision": Row(
        "fp32", "bf16", takes_less("snapshots/"), {**FULL, "use_ema": True, "save_state_after": True}
    ),
    # images
    "scheduler": Row("DDIM", "EulerAncestralDiscrete", images_differ, samples=True),
    "sanity_seed": Row(420420, 1, images_differ, {"sanity_prompt": "a red star"}, samples=True),
}  # fmt: skip
# Measured elsewhere: the named test fails when the setting has no effect.
ELSEWHERE = {
    "deterministic": "tests/training/test_whole_model.py::test_deterministic_applies_to_the_run_and_is_reset",
    **dict.fromkeys(
        ("ema_decay", "ema_on_cpu", "ema_update_every"),
        "tests/training/test_whole_model.py::test_the_ema_of_a_run_has_the_decay_and_the_device_of_the_settings",
    ),
    **dict.fromkeys(
        ("save_every_steps", "preview_every_steps"),
        "tests/training/test_scheduled_tasks.py::test_saves_and_previews_follow_the_interval_in_steps",
    ),
    **dict.fromkeys(
        ("save_embedding_every", "custom_model_name", "save_lora_after", "save_state_during", "snapshots_to_keep"),
        "tests/training/test_scheduled_tasks.py::test_a_lora_run_saves_what_its_settings_say",
    ),
    **dict.fromkeys(
        ("use_lora", "use_subdir", "save_ckpt_during", "save_state_after"),
        "tests/training/test_scheduled_tasks.py::test_a_full_run_saves_what_its_settings_say",
    ),
    **dict.fromkeys(
        ("save_lora_cancel", "save_ckpt_cancel", "save_state_cancel"),
        "tests/training/test_scheduled_tasks.py::test_a_canceled_run_saves_what_its_settings_say",
    ),
    **dict.fromkeys(
        ("save_ckpt_after", "save_lora_during"),
        "tests/training/test_scheduled_tasks.py::test_each_result_has_a_switch_for_each_occasion",
    ),
    "autosave_minutes": "tests/training/test_scheduled_tasks.py::test_autosaves_are_snapshots_and_change_nothing",
    **dict.fromkeys(
        ("epoch_pause_frequency", "epoch_pause_time"),
        "tests/training/test_scheduled_tasks.py::test_a_pause_between_epochs_ends_by_itself_and_changes_nothing",
    ),
    "sample_batch_size":
        "tests/training/test_class_images.py::test_class_images_are_generated_in_batches_of_the_class_batch_size",
    "disable_class_matching": "tests/training/test_class_images.py::test_existing_class_images_count_by_their_shape",
    "validation_every": "tests/training/test_validation.py::test_measuring_changes_nothing",
    "validation_share": "tests/training/test_validation.py::test_the_validation_fraction_depends_on_the_images_alone",
    **dict.fromkeys(
        ("keep_tokens", "tag_dropout", "caption_dropout"), "tests/dataset/test_variation.py::test_dropout_probabilities"
    ),
    **dict.fromkeys(
        ("bucket_min_side", "bucket_max_side"), "tests/dataset/test_variation.py::test_bounds_of_buckets"
    ),
    "bucket_no_upscale": "tests/dataset/test_variation.py::test_small_images_are_not_upscaled",
    **dict.fromkeys(
        ("bucket_rule", "resolution_height"),
        "tests/interop/test_kohya_rule.py::test_each_rule_gives_its_own_crops",
    ),
    **dict.fromkeys(
        ("train_imagic", "imagic_steps", "imagic_learning_rate", "imagic_strength"),
        "tests/training/test_imagic.py::test_every_setting_of_it_has_an_effect",
    ),
    "resolution_shift": "tests/models/test_process.py::test_resolution_shift_is_that_of_flux",
    "flow_loss_weighting": "tests/models/test_process.py::test_flow_loss_weighting_is_that_of_diffusers",
    "lora_spelling": "tests/training/test_lora_spelling.py::test_other_spellings_are_written_and_read_back",
    "lora_start": "tests/training/test_init_from_lora.py::test_it_starts_with_the_files_values",
    "max_token_length": "tests/training/test_prompts.py::test_tokens_beyond_the_limit_are_not_trained",
    **dict.fromkeys(
        ("offload_fraction", "offload_activations", "allow_tf32", "cudnn_benchmark"),
        "tests/virtual_gpu/test_training.py::test_modes_with_code_of_their_own_on_a_gpu",
    ),
    "cuda_graphs": "tests/training/test_cuda_graphs.py::test_replayed_steps_are_those_of_other_runs_to_the_bit",
    "training_adapter": "tests/training/test_training_adapter.py::test_it_is_active_in_training_alone",
    "preview_model": "tests/training/test_preview_model.py::test_previews_are_those_of_the_chosen_model_with_the_lora",
    "torch_compile": "tests/training/test_compiled_blocks.py::test_compiled_blocks_train_as_they_are",
    "fused_backward": "tests/training/test_fused_backward.py::test_a_run_gives_the_same_losses_and_weights",
    "gradient_set_to_none": "tests/training/test_optimizers.py::test_gradients_are_dropped_or_zeroed_as_chosen",
    "gradient_checkpointing":
        "tests/training/test_optimizers.py::test_gradient_checkpointing_changes_memory_not_weights",
    "half_model": "tests/training/test_settings_work.py::test_half_model_halves_a_checkpoint",
    "save_thumbnail": "tests/training/test_settings_work.py::test_the_last_sample_is_put_into_the_files",
    **dict.fromkeys(
        ("lora_weight", "lora_txt_weight"),
        "tests/sampling/test_same_image.py::test_weight_scales_the_lora_in_samples_and_checkpoints",
    ),
}  # fmt: skip


def test_every_setting_is_measured():
    assert set(TABLE) | set(ELSEWHERE) == set(SETTINGS) and not set(TABLE) & set(ELSEWHERE)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_what_is_measured_elsewhere_is(key):
    """The test exists, and uses the setting's name."""
    path, _, name = ELSEWHERE[key].partition("::")
    source = (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    (test,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    keywords = {node.arg for node in ast.walk(test) if isinstance(node, ast.keyword)}
    texts = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    assert key in keywords | texts


@pytest.fixture(scope="module")
def summary():
    """Finished runs by their settings: rows with the same settings share one."""
    return {}


@pytest.fixture(scope="module")
def warm(created, tmp_path_factory):
    """The created model, with the caches of earlier runs, so that images are encoded only once."""
    folder = tmp_path_factory.mktemp("warm") / "models"
    shutil.copytree(created, folder)
    return folder


@pytest.fixture
def run_row(warm, models_dir, mini, train, summary):
    """``run_row(row, settings)``: the summary of a run of the newly created model."""

    def run(row: Row, settings: dict[str, Any]) -> RunSummary:
        key = json.dumps([{**dataclasses.asdict(Settings()), **SMALL, **settings}, row.samples])
        if key not in summary:
            shutil.rmtree(models_dir)
            shutil.copytree(warm, models_dir)
            with recording() as recorded:
                outcome = train(samples=int(row.samples), **settings)
            summary[key] = _summarize(outcome, warm / mini.working.relative_to(models_dir), recorded)
            shutil.copytree(mini.cache, warm / mini.cache.relative_to(models_dir), dirs_exist_ok=True)
        return summary[key]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("key", TABLE)
def test_setting_does_what_it_says(run_row, key):
    row = TABLE[key]
    if row.planned:
        before, after = (PlannedRates.of({**SMALL, **row.settings(key, value)}) for value in (row.before, row.after))
        assert row.consequence(before, after) and not row.consequence(before, before)
        return
    before, after = (run_row(row, row.settings(key, value)) for value in (row.before, row.after))
    assert row.consequence(before, after)
    assert not row.consequence(before, before)


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
        messages = open_tensors(path).metadata
        kind, _, data = messages["modelspec.thumbnail"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.format == "JPEG" and max(image.size) <= 256
    assert (
        messages["modelspec.merged_from"] == lora.stem and messages["modelspec.architecture"] == "stable-diffusion-v1"
    )


def _summarize(outcome, start: Path, recorded: list[RecordedStep]) -> RunSummary:
    assert outcome.error is None
    folders = outcome.model.folders
    roots = (folders.loras, folders.checkpoints, outcome.model.snapshots, outcome.model.samples, outcome.model.working)
    found = sorted(path for root in roots if root.exists() for path in root.rglob("*") if path.is_file())
    loras = sorted(folders.loras.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    return RunSummary(
        outcome.of("step"),
        outcome.weights(),
        open_tensors(loras[-1]).metadata if loras else {},
        {p.relative_to(folders.models).as_posix(): p.stat().st_size for p in found if p.suffix != ".png"},
        [value for path in found if folders.checkpoints in path.parents for value in _middle(path)],
        [path.read_bytes() for path in found if path.suffix == ".png"],
        working_tensors(start),
        outcome.result.config.settings,
        recorded,
        start,
    )


def _middle(checkpoint: Path) -> list[float]:
    return [t.sum().item() for key, t in tensors(checkpoint).items() if ".middle_block." in key]
