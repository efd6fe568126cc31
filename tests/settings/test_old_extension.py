"""Settings and concepts of the old extension, of each version: the same effect, or a notice that says why not."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil

import pytest

from dreambooth.settings import SETTINGS, Concept, ModelInfo, concept_values, parse_concepts, read_concepts
from dreambooth.settings.legacy import REMOVED
from dreambooth.settings.model_folder import config_from, values_of
from dreambooth.settings.old_extension import OLD_KEYS
from dreambooth.settings.training import Training
from tests.cli.commands import run

# Every key that a version of the old extension wrote to db_config.json, November 2022 to September 2025.
KEYS = """
adam_beta1 adam_beta2 adam_epsilon adam_weight_decay adamw_weight_decay adaptation_beta1 adaptation_beta2 adaptation_d0
adaptation_eps adaptation_growth_rate adaptation_momentum attention c_step cache_latents center_crop class_buckets
class_labels_conditioning clip_skip concepts_list concepts_path config_prefix curve_sched custom_model_name
debiased_estimation_loss deis_train_scheduler deterministic disable_class_matching disable_logging discord_webhook_url
dream_detail_preservation dynamic_img_norm ema_predict enable_tomesd epoch epoch_pause_frequency epoch_pause_time
freeze_clip_normalization freeze_spectral_norm full_mixed_precision gradient_accumulation_steps gradient_checkpointing
gradient_set_to_none graph_smoothing half_lora half_model has_ema hflip infer_ema initial_revision input_pertubation
ip_noise_gamma learning_rate learning_rate_min lifetime_revision log_with lognorm_sampling lora_dir lora_learning_rate
lora_model_name lora_rank lora_text_rank lora_txt_learning_rate lora_txt_rank lora_txt_weight lora_unet_rank
lora_use_buggy_requires_grad lora_weight loss_curve_scale lr_cycles lr_factor lr_num_cycles lr_power lr_scale_pos
lr_scheduler lr_warmup_steps max_grad_norm max_token_length max_train_steps min_learning_rate min_snr_gamma
mixed_precision model_dir model_name model_path model_type multires_noise_discount multires_noise_iterations name
new_tokens_list noise_scheduler not_cache_latents notification_webhook_url num_train_epochs offset_noise offset_rand_max
offset_rand_min offset_sched optimizer output_dir pad_tokens pretrained_model_name_or_path pretrained_vae_name_or_path
prior_loss_scale prior_loss_target prior_loss_weight prior_loss_weight_min resolution revision sample_batch_size
sanity_negative_prompt sanity_prompt sanity_seed save_ckpt_after save_ckpt_cancel save_ckpt_during save_class_txt
save_ema save_embedding_every save_lora_after save_lora_cancel save_lora_during save_lora_for_extra_net
save_preview_every save_safetensors save_state_after save_state_cancel save_state_during save_use_epochs
save_use_global_counts scale_lr scale_reg scheduler seed shared_diffusers_path shuffle_after_epoch shuffle_tags snapshot
split_loss src stage_step_ratio stop_at_steps stop_text_encoder strict_tokens tenc_grad_clip_norm tenc_weight_decay
tf32_enable tomesd total_steps train_batch_size train_conditioning train_imagic train_in_stages train_inpainting
train_text_encoder train_text_encoder_steps train_unet train_unfrozen txt_learning_rate unfreeze_model use_8bit_adam
use_concepts use_cpu use_dream use_ema use_lora use_lora_extended use_shared_src use_stages use_subdir use_unet v2
wandb_api_key wandb_project weight_decay with_prior_preservation working_dir zero_terminal_snr
instance_data_dir class_data_dir file_prompt_contents instance_prompt class_prompt save_sample_prompt instance_token
class_token num_class_images class_negative_prompt class_guidance_scale class_infer_steps save_sample_negative_prompt
n_save_sample sample_seed save_guidance_scale save_infer_steps save_sample_template max_steps
"""
OF_A_FILE = {"pretrained_model_name_or_path": "/models/old/working", "src": "v1-5.ckpt", "learning_rate": 2e-6}
NOVEMBER = {**OF_A_FILE, "not_cache_latents": False, "max_train_steps": 0, "num_train_epochs": 4}


def loaded(values, caplog, name="old"):
    with caplog.at_level(logging.WARNING, "dreambooth"):
        return config_from(name, dict(values))


def test_every_key_of_every_version_is_known():
    known = {*SETTINGS, *OLD_KEYS, *REMOVED, "lora_rank", "model_name", "concepts_list"}
    known |= {field.name for field in dataclasses.fields(ModelInfo)}
    assert [key for key in KEYS.split() if key not in known] == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train_text_encoder": False}, {"stop_text_encoder": 0}),
        ({"train_text_encoder": True}, {"stop_text_encoder": 1}),
        ({"train_text_encoder": True, "train_text_encoder_steps": 50, "revision": 20, "max_train_steps": 120},
         {"stop_text_encoder": 0.25}),
        ({"train_text_encoder": True, "train_text_encoder_steps": 50, "revision": 60, "max_train_steps": 120},
         {"stop_text_encoder": 0}),
        ({"stop_text_encoder": 75, "num_train_epochs": 100}, {"stop_text_encoder": 0.75}),
        ({"stop_text_encoder": 300, "num_train_epochs": 100}, {"stop_text_encoder": 1}),
        ({"stop_text_encoder": -1}, {"stop_text_encoder": 1}),
        ({"stop_text_encoder": 0.2, "train_unet": False}, {"stop_text_encoder": 1, "train_unet": False}),
        ({"use_unet": False}, {"train_unet": False, "stop_text_encoder": 1}),
        ({"use_8bit_adam": True}, {"optimizer": "8bit AdamW"}),
        ({"use_8bit_adam": False}, {"optimizer": "Torch AdamW"}),
        ({"use_8bit_adam": True, "optimizer": "Lion"}, {"optimizer": "Lion"}),
        ({"adam_weight_decay": 0.02}, {"weight_decay": 0.02, "tenc_weight_decay": 0.02}),
        ({"adamw_weight_decay": 0.05}, {"weight_decay": 0.05, "tenc_weight_decay": 0.05}),
        ({"weight_decay": 0.05, "tenc_weight_decay": 0.1}, {"weight_decay": 0.05, "tenc_weight_decay": 0.1}),
        ({"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6},
         {"optimizer_args": "betas=(0.8, 0.99), eps=1e-06"}),
        ({"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}, {"optimizer_args": ""}),
        ({"learning_rate": 5e-6}, {"learning_rate": 5e-6, "txt_learning_rate": 5e-6}),
        ({"learning_rate": 1e-6, "scale_lr": True, "train_batch_size": 2, "gradient_accumulation_steps": 4},
         {"learning_rate": 8e-6, "txt_learning_rate": 8e-6}),
        ({"learning_rate": 1e-4, "use_lora": True}, {"lora_learning_rate": 1e-4, "lora_txt_learning_rate": 1e-4}),
        ({"lora_rank": 16}, {"lora_unet_rank": 16, "lora_txt_rank": 16}),
        ({"lora_text_rank": 16}, {"lora_txt_rank": 16}),
        ({"lora_model_name": "dog_500.pt", "use_lora": True}, {"lora_start": "dog_500.pt"}),
        ({"min_learning_rate": 3e-7}, {"learning_rate_min": 3e-7}),
        ({"lr_num_cycles": 3}, {"lr_cycles": 3}),
        ({"ip_noise_gamma": 0.1}, {"input_perturbation": 0.1}),
        ({"tf32_enable": True}, {"allow_tf32": True}),
        ({"shuffle_tags": True}, {"shuffle_tags": True, "keep_tokens": 1}),
        ({}, {"shuffle_tags": False}),
        ({**NOVEMBER, "shuffle_tags": True}, {"shuffle_tags": True, "keep_tokens": 0}),
        (NOVEMBER, {"bucket_rule": "one size", "save_ckpt_during": True, "max_grad_norm": 0, "num_train_epochs": 4}),
        ({**NOVEMBER, "max_train_steps": 1000, "num_train_epochs": 1},
         {"max_train_steps": 1000, "num_train_epochs": 1000}),
        ({**NOVEMBER, "max_train_steps": 1000, "gradient_accumulation_steps": 3}, {"max_train_steps": 334}),
        ({**NOVEMBER, "save_embedding_every": 500, "save_preview_every": 250},
         {"save_every_steps": 500, "save_embedding_every": 0, "preview_every_steps": 250, "save_preview_every": 0}),
        ({**NOVEMBER, "save_embedding_every": 5, "save_use_epochs": True},
         {"save_every_steps": 0, "save_embedding_every": 5}),
        ({"scheduler": "euler-ancestral"}, {"scheduler": "EulerAncestralDiscrete"}),
        ({"scheduler": "DEISMultistep"}, {"scheduler": "DEISMultistep"}),
        ({"attention": "flash_attention"}, {"attention": "default"}),
        ({"mixed_precision": ""}, {"mixed_precision": "no"}),
        ({"use_ema": None, "train_unet": None}, {"use_ema": False, "train_unet": True}),
        ({"epoch_pause_frequency": 0.0, "num_train_epochs": "20"}, {"num_train_epochs": 20}),
    ],
    ids=str,
)  # fmt: skip
def test_old_keys_have_the_same_effect(values, expected, caplog):
    settings = dataclasses.asdict(loaded({**OF_A_FILE, **values}, caplog).settings)
    assert {key: settings[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "values",
    [
        {"noise_scheduler": "UniPC"}, {"snapshot": "1500"}, {"use_cpu": True}, {"half_lora": True},
        {"pretrained_vae_name_or_path": "/vae"}, {"ema_predict": True}, {"cache_latents": False},
        {"not_cache_latents": True}, {"save_use_global_counts": True}, {"use_stages": True},
        {"center_crop": False, "not_cache_latents": False}, {"sanity_negative_prompt": "blurry"},
        {"new_tokens_list": "sks"}, {"lognorm_sampling": True}, {"custom_model_name": "sub/dog"},
    ],
    ids=str,
)  # fmt: skip
def test_what_has_no_effect_is_reported_by_its_key_with_the_reason(values, caplog):
    loaded({**OF_A_FILE, **values}, caplog, name=str(values))
    (line,) = [line for line in caplog.messages if f": {next(iter(values))}" in line]
    assert len(line.partition(": ")[2].split()) > 5


def test_what_was_off_is_not_reported(caplog):
    off = {"noise_scheduler": "DDPM", "snapshot": "", "use_cpu": False, "cache_latents": True, "graph_smoothing": 50,
           "train_unfrozen": True, "lora_model_name": "", "model_dir": "/x", "half_lora": False, "v2": False,
           "input_pertubation": True, "save_safetensors": True, "shuffle_tags": False}  # fmt: skip
    loaded({**OF_A_FILE, **off}, caplog, name="off")
    assert caplog.messages == []


def test_a_file_that_we_have_saved_is_not_upgraded_again(caplog):
    config = loaded({**OF_A_FILE, "train_text_encoder": False, "use_8bit_adam": True}, caplog)
    saved = values_of(config)
    assert saved["train_text_encoder"] is False, "the old extension can still read it"
    saved["stop_text_encoder"] = 0.5
    caplog.clear()
    again = loaded(saved, caplog, name="again")
    assert again.settings.stop_text_encoder == 0.5 and again.settings.optimizer == "8bit AdamW"
    assert caplog.messages == []


def test_a_concept_among_the_settings_of_the_first_version(tmp_path, caplog):
    values = {**NOVEMBER, "instance_data_dir": str(tmp_path), "instance_prompt": "photo of sks dog", "seed": 9,
              "class_data_dir": str(tmp_path), "num_class_images": 0, "n_save_sample": 4, "concepts_list": None,
              "save_sample_prompt": "sks dog in a bucket", "with_prior_preservation": False}  # fmt: skip
    (concept,) = loaded(values, caplog).concepts
    assert (concept.instance_prompt, concept.sample_seed, concept.n_save_sample) == ("photo of sks dog", 9, 4)
    assert concept.class_data_dir == "" and "class_data_dir" in caplog.text


def test_concepts_in_a_file_of_their_own(tmp_path, caplog):
    (tmp_path / "concepts.json").write_text('[{"instance_data_dir": "dog", "class_token": "dog"}]')
    values = {**OF_A_FILE, "use_concepts": True, "concepts_path": str(tmp_path / "concepts.json"), "concepts_list": []}
    assert loaded(values, caplog).concepts[0].instance_data_dir == str(tmp_path / "dog")
    gone = {**values, "concepts_path": str(tmp_path / "gone.json")}
    assert loaded(gone, caplog).concepts == () and "gone.json does not exist" in caplog.text


def folder_with(tmp_path, n_images):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(n_images):
        (folder / ("more" if number % 2 else "") / f"{number}.jpg").write_bytes(b"")
    (folder / "0.txt").write_text("a caption")
    return folder


@pytest.mark.parametrize(("total", "images", "per_image"), [(200, 20, 10), (200, 30, 7), (5, 20, 1), (10**7, 2, 1000)])
def test_a_total_number_of_class_images_is_divided_by_the_images(tmp_path, total, images, per_image):
    concept = {"instance_data_dir": str(folder_with(tmp_path, images)), "num_class_images": total}
    (parsed,), notices = parse_concepts([concept])
    assert parsed.num_class_images_per == per_image
    assert "num_class_images" in notices[0] and f"{total:,}" in notices[0]


def test_a_total_that_cannot_be_divided_is_reported(tmp_path):
    (parsed,), (notice,) = parse_concepts([{"instance_data_dir": str(tmp_path), "num_class_images": 100}])
    assert parsed.num_class_images_per == 0 and "num_class_images: 100" in notice


def test_a_number_per_image_goes_before_a_total(tmp_path):
    concept = {"instance_data_dir": str(tmp_path), "num_class_images": 100, "num_class_images_per": 3}
    assert parse_concepts([concept])[0][0].num_class_images_per == 3


def test_a_class_folder_was_only_used_with_class_images(tmp_path):
    old = {"instance_data_dir": "a", "class_data_dir": "b", "num_class_images_per": 0, "is_valid": False}
    (parsed,), (notice,) = parse_concepts([old])
    assert parsed.class_data_dir == "" and "class_data_dir (b) is not used" in notice
    own = {**concept_values(Concept(instance_data_dir="a", class_data_dir="b"))}
    assert parse_concepts([own])[0][0].class_data_dir == "b", "here it is used"
    bare = {"instance_data_dir": "a", "class_data_dir": "b"}  # of the scripts before the extension
    assert parse_concepts([bare])[0][0].class_data_dir == "b"


@pytest.mark.parametrize(
    ("contents", "reported"),
    [("Description", False), ("Class Token + Description", False), ("", False),
     ("Instance Token + Class Token + Description", False), ("Instance Token + Description", True)],
)  # fmt: skip
def test_the_contents_of_captions(contents, reported):
    _, notices = parse_concepts([{"instance_data_dir": "a", "file_prompt_contents": contents}])
    assert bool(notices) == reported


def test_invalid_values_in_a_model_are_replaced_and_reported(caplog):
    values = {**OF_A_FILE, "concepts_list": [{"instance_data_dir": "a", "n_save_sample": "many", "mystery": 1}]}
    (concept,) = loaded(values, caplog).concepts
    assert concept.instance_data_dir == "a" and concept.n_save_sample == 1
    assert "n_save_sample: 'many' is not a number" in caplog.text and "mystery" in caplog.text


CONCEPTS = [
    '[{"instance_data_dir": "dog", "num_class_images": 0, "is_valid": true, "file_prompt_contents": ""}]',
    '{"concepts_list": [{"instance_data_dir": "dog"}]}',
    '{"instance_data_dir": "dog", "class_prompt": "a dog"}',
    '[{"instance_data_dir": "dog", "sample_prompt": "sks dog", "negative_prompt": "blurry"}]',
]


@pytest.mark.parametrize("text", CONCEPTS)
def test_concept_lists_of_every_kind(tmp_path, text):
    (tmp_path / "concepts.json").write_text("\ufeff" + text)
    (concept,), _ = read_concepts(tmp_path / "concepts.json")
    assert concept.instance_data_dir == str(tmp_path / "dog")
    if "sample_prompt" in text:
        assert (concept.save_sample_prompt, concept.save_sample_negative_prompt) == ("sks dog", "blurry")


def test_the_command_line_reports_what_it_changed(mini, models_dir, subject_concepts, tmp_path):
    photos = subject_concepts.parent / "subject"
    concept = {"instance_data_dir": str(photos), "class_data_dir": str(photos), "num_class_images": 0,
               "save_sample_template": "prompts.txt"}  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps([concept]))
    result = run("check", "mini", "--concepts", tmp_path / "old.json", "--models-dir", models_dir)
    assert result.returncode == 0, result.stderr
    assert "concept 1: save_sample_template has no effect" in result.stderr
    assert "is not used, since the number of class images is 0" in result.stderr


def test_each_default_of_ours_that_an_old_file_would_change_is_decided():
    """A setting that changes what is trained and that old files lack needs the value that they trained with."""
    assert Training().shuffle_tags is True and Training().keep_tokens == 1 and Training().bucket_rule == "area"
    assert Training().max_grad_norm == 1 and Training().txt_learning_rate != Training().learning_rate


def test_an_old_file_is_imported_into_another_model(mini, models_dir, subject_concepts, tmp_path):
    """import-toml and the page's Concepts list read it as the model that it belongs to does."""
    shutil.copytree(subject_concepts.parent / "subject", tmp_path / "photos")
    values = {**NOVEMBER, "train_text_encoder": False, "snapshot": "500", "mystery": 1, "concepts_list": None,
              "instance_data_dir": "photos", "instance_prompt": "photo of sks dog"}  # fmt: skip
    (tmp_path / "db_config.json").write_text(json.dumps(values))
    result = run("import-toml", tmp_path / "db_config.json", "mini", "--models-dir", models_dir)
    assert result.returncode == 0, result.stderr
    config = mini.load()
    assert config.settings.stop_text_encoder == 0 and config.settings.bucket_rule == "one size"
    assert config.concepts[0].instance_data_dir == str(tmp_path / "photos")
    assert "train_text_encoder False is now stop_text_encoder 0" in result.stdout
    assert "snapshot '500' has no effect" in result.stdout and "mystery has no effect" in result.stdout
