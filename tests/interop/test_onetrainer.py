"""Configurations of OneTrainer: recognized by content, imported with its defaults, and what is lost is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.interop.input_kind import RecognizedInput, recognize_concepts, recognize_input
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.interop.onetrainer.concepts import whole_repeats
from dreambooth.interop.onetrainer.config_file import DEFAULTS
from dreambooth.interop.onetrainer.timesteps import import_timesteps
from dreambooth.settings import Settings, parse


def make_images(folder: Path, names: str = "1 2 3", suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names.split()):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(folder / f"{name}{suffix}")
    return folder


def concept(
    path: object, text: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **fields: Any
) -> dict:
    return {"__version": 2, "path": str(path), "text": text or {}, "image": image or {}, **fields}


def config(**values: Any) -> dict[str, Any]:
    return {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", **values}


def read(tmp_path: Path, data: Any, name: str = "any.json") -> RecognizedInput:
    (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    return recognize_input(tmp_path / name)


def unsupported(found: RecognizedInput) -> str:
    return "\n".join(found.unsupported)


# -- concepts -------------------------------------------------------------------------------------------------------


def test_concepts(tmp_path: Path) -> None:
    toys = make_images(tmp_path / "data/toys")
    make_images(tmp_path / "data/hats/below")
    (toys / "1.txt").write_text("a red toy, zwx\n\na toy of zwx\n")
    rows = [
        concept(toys, {"enable_tag_shuffling": True, "keep_tags_count": 2}, {"enable_random_flip": True}, balancing=3),
        concept("data/hats", {"tag_dropout_enable": True, "tag_dropout_mode": "RANDOM", "tag_dropout_probability": 0.2},
                include_subdirectories=True, balancing_strategy="SAMPLES", balancing=6),
        concept(toys, enabled=False, name="off"),
        concept("data/hats/below", type="VALIDATION"),
    ]  # fmt: skip
    found = read(tmp_path, rows)
    first, second = found.concepts
    assert (first.num_repeats, first.shuffle_tags, first.keep_tokens, first.hflip) == (3, "on", 2, "on")
    assert (second.num_repeats, second.shuffle_tags, second.tag_dropout, second.hflip) == (2, "off", 0.2, "off")
    assert not first.subfolders and second.subfolders
    assert first.validation_data_dir == str(tmp_path / "data/hats/below")
    assert "concept 3 (off): skipped" in unsupported(found) and "enable_crop_jitter" in unsupported(found)
    plan = make_plan([first], Settings(resolution=64))
    captions = {example.path.name: example.variants or (example.caption,) for example in plan.examples}
    assert captions == {"1.png": ("a red toy, zwx", "a toy of zwx"), "2.png": ("",), "3.png": ("",)}


def test_prompts_of_a_concept(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "a", "01_red_hat cup")
    (tmp_path / "one.txt").write_text("photo of zwx\n\n")
    (tmp_path / "two.txt").write_text("photo of zwx\na zwx, hat\na {zwx}\n")
    rows = [
        concept(folder, {"prompt_source": "concept", "prompt_path": "one.txt"}),
        concept(folder, {"prompt_source": "concept", "prompt_path": "two.txt"}),
        concept(folder, {"prompt_source": "concept", "prompt_path": "gone.txt"}),
        concept(folder, {"prompt_source": "filename"}),
    ]
    found = read(tmp_path, rows)
    plans = [make_plan([c], Settings(resolution=64, shuffle_tags=False)) for c in found.concepts]
    shown = [{b.instances[0].caption for n in range(40) for b in plan.epoch(1, n, 1)} for plan in plans]
    assert shown == [{"photo of zwx"}, {"photo of zwx", "a zwx, hat"}, {""}, {"red hat", "cup"}]
    assert (
        "gone.txt" in unsupported(found)
        and "1 prompt left out" in unsupported(found)
        and "01_red_hat.png" in unsupported(found)
    )


@pytest.mark.parametrize(
    ("samples", "epochs", "repeats", "factor"),
    [
        ([1.0, 3.0], 10, [1, 3], 1), ([0.5], 10, [1], 2), ([2.5, 1.0], 10, [5, 2], 2), ([0.25, 0.75], 100, [1, 3], 4),
        ([0.37], 10, [1], 1), ([0.5], 5, [1], 1), ([0.5], 0, [1], 1), ([], 10, [], 1),
    ],
)  # fmt: skip
def test_fractions_of_repeats(samples: list[float], epochs: int, repeats: list[int], factor: int) -> None:
    assert whole_repeats(samples, epochs) == (repeats, factor)


def test_fractional_repeats_merge_epochs(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "a")
    rows = [concept(folder, balancing=0.5), concept(folder, balancing=2)]
    found = read(tmp_path, config(epochs=40, save_every=10, save_every_unit="EPOCH", concepts=rows))
    assert [c.num_repeats for c in found.concepts] == [1, 4]
    assert (found.settings["num_train_epochs"], found.settings["save_embedding_every"]) == (20, 5)
    assert "balancing" not in unsupported(found)
    alone = read(tmp_path, rows)
    assert [c.num_repeats for c in alone.concepts] == [1, 2] and "balancing = 0.5" in unsupported(alone)


def test_prior_prediction_becomes_regularization(tmp_path: Path) -> None:
    folder, other = make_images(tmp_path / "a"), make_images(tmp_path / "b")
    rows = [concept(other, type="PRIOR_PREDICTION", loss_weight=0.5), concept(folder, loss_weight=2)]
    found = read(tmp_path, config(concepts=rows))
    assert [c.regularization for c in found.concepts] == [False, True]
    assert found.settings["prior_loss_weight"] == 0.5
    assert "PRIOR_PREDICTION" in unsupported(found) and "loss_weight = 2" in unsupported(found)


@pytest.mark.parametrize(
    ("part", "key", "value", "reported"),
    [
        ("image", "enable_random_rotate", True, "not rotated"), ("image", "enable_fixed_hue", True, "hue"),
        ("image", "enable_resolution_override", True, "resolution of the run"),
        ("text", "caps_randomize_enable", True, "case of captions"),
        ("text", "tag_delimiter", ";", "commas only"), ("image", "enable_zoom", True, "enable_zoom"),
    ],
)  # fmt: skip
def test_what_a_concept_can_not_have_is_named(tmp_path: Path, part: str, key: str, value: Any, reported: str) -> None:
    folder = make_images(tmp_path / "a")
    plain = concept(folder, {"enable_tag_shuffling": True}, {"enable_crop_jitter": False})
    assert not read(tmp_path, [plain]).unsupported
    plain[part][key] = value
    (message,) = read(tmp_path, [plain]).unsupported
    assert reported in message


def test_concepts_of_the_first_versions(tmp_path: Path) -> None:
    folder, held_out = make_images(tmp_path / "a"), make_images(tmp_path / "b")
    rows = [{"path": str(folder), "repeats": 4}, {"path": str(held_out), "validation_concept": True, "repeats": 1}]
    (only,) = read(tmp_path, rows).concepts
    assert (only.num_repeats, only.validation_data_dir) == (4, str(held_out))


def test_concepts_without_usable_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    rows = [concept("gone"), concept("empty"), concept(""), concept(make_images(tmp_path / "a"), enabled=False), 3]
    for data in (rows[:4], config(concepts=rows)):
        with pytest.raises(UserError, match="nothing") as error:
            read(tmp_path, data)
        text = "\n".join(error.value.problems)
        assert all(f"concept {number}" in text for number in (1, 2, 3, 4)), text


# -- whole configurations -------------------------------------------------------------------------------------------


def test_defaults_are_those_of_onetrainer(tmp_path: Path) -> None:
    found = read(tmp_path, config())
    run = parse(Settings, found.settings)
    assert (run.num_train_epochs, run.lora_unet_rank, run.lora_unet_alpha, run.resolution) == (100, 16, 1.0, 512)
    assert (run.lr_scheduler, run.lr_warmup_steps, run.lora_learning_rate) == ("constant_with_warmup", 200, 3e-6)
    assert run.stop_text_encoder == 0.3, "30 of 100 epochs"
    assert run.mixed_precision == "fp16" and run.use_lora_extended and run.save_embedding_every == 0
    assert "concepts are unchanged" in unsupported(found) and not found.concepts


def test_a_configuration_with_its_files(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "training_data")
    (tmp_path / "training_concepts").mkdir()
    (tmp_path / "training_presets").mkdir()
    (tmp_path / "training_concepts/mine.json").write_text(json.dumps([concept("training_data", balancing=2)]))
    samples = [{"enabled": False, "prompt": "no", "cfg_scale": 7},
               {"prompt": "zwx on a hill", "negative_prompt": "rain", "seed": 3, "diffusion_steps": 11, "cfg_scale": 5,
                "noise_scheduler": "EULER_A"}]  # fmt: skip
    (tmp_path / "training_concepts/samples.json").write_text(json.dumps(samples))
    values = config(
        concept_file_name="training_concepts/mine.json", sample_definition_file_name="training_concepts/samples.json",
        epochs=10, batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-4, learning_rate_scaler="BATCH",
        output_model_destination="models/alice.safetensors", backup_after=2, backup_after_unit="HOUR",
        sample_after=2, sample_after_unit="EPOCH", save_every=4, save_every_unit="STEP",
        unet={"learning_rate": 2e-4}, text_encoder={"learning_rate": 5e-5, "stop_training_after": 5,
                                                    "stop_training_after_unit": "EPOCH"},
        optimizer={"optimizer": "ADAMW_8BIT", "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.05, "fused": True},
    )  # fmt: skip
    found = read(tmp_path, values, "training_presets/x.json")
    run = parse(Settings, found.settings)
    assert found.concepts[0].instance_data_dir == str(folder) and found.concepts[0].num_repeats == 2
    shown = found.concepts[0]
    assert (shown.save_sample_prompt, shown.save_sample_negative_prompt) == ("zwx on a hill", "rain")
    assert (shown.sample_seed, shown.save_infer_steps, shown.save_guidance_scale) == (3, 11, 5)
    assert run.scheduler == "EulerAncestralDiscrete"
    assert run.lora_learning_rate == pytest.approx(2e-4 * 2**0.5) and run.stop_text_encoder == 0.5
    assert run.lora_txt_learning_rate == pytest.approx(5e-5 * 2**0.5)
    assert (run.optimizer, run.optimizer_args) == ("8bit AdamW", "betas=(0.9, 0.99), eps=1e-06")
    assert (run.weight_decay, run.tenc_weight_decay, run.custom_model_name) == (0.05, 0.05, "alice")
    assert (run.autosave_minutes, run.save_preview_every, run.save_every_steps) == (120, 2, 2)
    assert run.lr_warmup_steps == 100, "OneTrainer counts batches"


SETTINGS = {
    "masks": ({"masked_training": True, "unmasked_weight": 0.2}, {"masked_loss": True, "unmasked_weight": 0.2}),
    "noise": (
        {"offset_noise_weight": 0.05, "perturbation_noise_weight": 0.1, "max_noising_strength": 0.8},
        {"offset_noise": 0.05, "input_perturbation": 0.1, "max_timestep": 800},
    ),
    "min snr": ({"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 5}, {"min_snr_gamma": 5}),
    "debiased": ({"loss_weight_fn": "DEBIASED_ESTIMATION"}, {"debiased_estimation": True, "min_snr_gamma": 0}),
    "absolute error": ({"mse_strength": 0, "mae_strength": 1}, {"loss_type": "l1"}),
    "sizes": ({"resolution": "512, 768"}, {"resolution": 768, "bucket_rule": "area"}),
    "one size": ({"resolution": "512x770"}, {"resolution": 512, "resolution_height": 768, "bucket_rule": "one size"}),
    "square": ({"aspect_ratio_bucketing": False}, {"bucket_rule": "one size", "resolution_height": 0}),
    "attention": ({"layer_filter_preset": "attn-mlp"}, {"use_lora_extended": False, "lora_layers": "default"}),
    "attention alone": ({"layer_filter_preset": "attn-only"}, {"lora_layers": "attention", "use_lora_extended": False}),
    "filter": ({"layer_filter_preset": "custom", "layer_filter": "attentions"}, {"use_lora_extended": False}),
    "loha": ({"peft_type": "LOHA", "lora_rank": 8, "dropout_probability": 0.1},
             {"lora_type": "LoHa", "lora_unet_rank": 8, "lora_txt_dropout": 0.1}),
    "lokr": ({"peft_type": "LOKR", "lokr_dim": 4, "lokr_decompose_factor": 8}, {"lora_unet_rank": 4, "lokr_factor": 8}),
    "dora": ({"lora_decompose": True}, {"lora_dora": True}),
    "no text encoder": ({"text_encoder": {"train": False}}, {"stop_text_encoder": 0}),
    "until the end": ({"text_encoder": {"stop_training_after_unit": "NEVER"}}, {"stop_text_encoder": 1}),
    "clip skip": ({"text_encoder_layer_skip": 1}, {"clip_skip": 2}),
    "checkpointing off": ({"gradient_checkpointing": "OFF"}, {"gradient_checkpointing": False}),
    "bf16": ({"train_dtype": "BFLOAT_16"}, {"mixed_precision": "bf16"}),
    "TF32, compiled": ({"train_dtype": "TFLOAT_32", "compile": True},
                       {"mixed_precision": "no", "allow_tf32": True, "torch_compile": True}),
    "cosine": ({"learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 0.1},
               {"lr_scheduler": "cosine", "lr_warmup_steps": 0.1}),
    "cosine to a minimum": (
        {"learning_rate_scheduler": "COSINE", "learning_rate_min_factor": 0.1, "learning_rate": 1e-4,
         "learning_rate_warmup_steps": 0},
        {"lr_scheduler": "cosine_annealing", "lr_scale_pos": 1, "learning_rate_min": pytest.approx(1e-5)},
    ),
    "waves": ({"learning_rate_scheduler": "COSINE_WITH_RESTARTS", "learning_rate_cycles": 2,
               "learning_rate_warmup_steps": 0}, {"lr_scheduler": "cosine_annealing", "lr_scale_pos": 0.25}),
    "prodigy": ({"optimizer": {"optimizer": "PRODIGY", "d_coef": 2, "safeguard_warmup": True}},
                {"optimizer": "Prodigy", "optimizer_args":
                 "use_bias_correction=False, d_coef=2, safeguard_warmup=True", "weight_decay": 0}),
    "flat optimizer": ({"optimizer": "ADAFACTOR", "optimizer_weight_decay": 0.01},
                       {"optimizer": "Adafactor", "weight_decay": 0.01}),
    "flat parts": ({"train_unet": True, "train_text_encoder_epochs": 25, "unet_learning_rate": 1e-3},
                   {"stop_text_encoder": 0.25, "lora_learning_rate": 1e-3}),
    "uniform timesteps": ({"timestep_distribution": "INVERTED_PARABOLA", "noising_weight": 0},
                          {"timestep_sampling": "uniform", "timestep_shift": 1, "resolution_shift": False}),
    "logit-normal": ({"timestep_distribution": "LOGIT_NORMAL", "noising_weight": -0.5, "noising_bias": 0.3},
                     {"timestep_sampling": "logit_normal", "timestep_mean": 0.3, "timestep_std": 0.5}),
    "heavy tail": ({"timestep_distribution": "HEAVY_TAIL", "noising_weight": 0.8, "timestep_shift": 3},
                   {"timestep_sampling": "mode", "mode_scale": 0.8, "timestep_shift": 3}),
    "shift of another model": ({"dynamic_timestep_shifting": True, "timestep_shift": 2},
                               {"resolution_shift": False, "timestep_shift": 2}),
    "first versions": ({"min_snr_gamma": 5, "save_after": 3, "save_after_unit": "EPOCH"},
                       {"min_snr_gamma": 5, "save_embedding_every": 3}),
    "base model in 8 bits": ({"unet": {"weight_dtype": "INT_8"}}, {"base_precision": "int8"}),
    "base model in float 8": ({"weight_dtype": "FLOAT_8", "unet": {"weight_dtype": "NONE"}}, {"base_precision": "fp8"}),
    "base model in 4 bits": ({"unet": {"weight_dtype": "NFLOAT_4"}}, {"base_precision": "nf4"}),
    "base model in 16 bits": ({"unet": {"weight_dtype": "FLOAT_16"}}, {"base_precision": "full"}),
    "layers in main memory": ({"layer_offload_fraction": 0.6, "gradient_checkpointing": "CPU_OFFLOADED"},
                              {"offload_fraction": 0.6, "gradient_checkpointing": True}),
    "as text": ({"epochs": "7", "learning_rate": "1e-4", "masked_training": "false"},
                {"num_train_epochs": 7, "lora_learning_rate": 1e-4, "masked_loss": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path: Path, name: str) -> None:
    given, wanted = SETTINGS[name]
    settings = read(tmp_path, config(**given)).settings
    assert {key: settings[key] for key in wanted} == wanted


def test_full_training(tmp_path: Path) -> None:
    values = {"training_method": "FINE_TUNE", "train_dtype": "BFLOAT_16", "ema": "CPU", "ema_decay": 0.99,
              "ema_update_step_interval": 1, "unet": {"weight_dtype": "BFLOAT_16"}, "output_dtype": "FLOAT_16",
              "save_every": 2, "save_every_unit": "EPOCH"}  # fmt: skip
    run = parse(Settings, read(tmp_path, config(**values)).settings)
    assert not run.use_lora and run.full_mixed_precision and run.half_model and run.save_ckpt_during
    assert run.use_ema and run.ema_on_cpu and run.infer_ema and run.ema_decay == 0.99
    every_5 = read(tmp_path, config(**{**values, "ema_update_step_interval": 5})).settings
    assert every_5["ema_update_every"] == 5 and every_5["ema_decay"] ** 5 == pytest.approx(0.99)
    fused = {**values, "optimizer": {"optimizer": "ADAMW", "fused_back_pass": True}}
    run = parse(Settings, read(tmp_path, config(**fused)).settings)
    assert run.fused_backward and run.clip_each_tensor
    run = parse(Settings, read(tmp_path, config(**fused, gradient_accumulation_steps=2)).settings)
    assert not run.fused_backward  # it would be refused, and has no influence on the weights
    lora = read(tmp_path, config(**{**values, "training_method": "LORA"}))
    assert not lora.settings["use_ema"] and "moving average" in unsupported(lora)


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"timestep_distribution": "BETA", "noising_weight": 0.8, "noising_bias": 1}, "BETA (noising_weight 0.8"),
        ({"noising_weight": 5}, "SIGMOID (noising_weight 5"), ({"loss_weight_fn": "P2"}, "P2"),
        ({"optimizer": {"optimizer": "MUON"}}, "MUON"), ({"peft_type": "OFT_2"}, "OFT_2"),
        ({"learning_rate_scheduler": "CUSTOM"}, "CUSTOM"), ({"huber_strength": 1}, "mse_strength 1, huber_strength 1"),
        ({"normalize_masked_area_loss": True, "masked_training": True}, "normalize_masked_area_loss"),
        ({"layer_filter_preset": "x", "layer_filter": "down_blocks"}, "down_blocks"),
        ({"force_v_prediction": True}, "--prediction-type"),
        ({"timestep_shift": 3.0, "min_noising_strength": 0.2}, "OneTrainer shifts timesteps out of this range"),
        ({"loss_scaler": "BATCH"}, "loss_scaler"), ({"new_key_of_2030": 5}, "new_key_of_2030"),
        ({"save_every": 5, "save_every_unit": "MINUTE"}, "save_every = 5 MINUTE"),
        ({"text_encoder": {"stop_training_after": 9, "stop_training_after_unit": "MINUTE"}}, "9 MINUTE"),
        ({"additional_embeddings": [{"model_name": "x"}]}, "embeddings are not trained"),
        ({"resolution": "768,512"}, "all are trained at 768"), ({"resolution": "large"}, "contains no number"),
        ({"lora_model_name": "gone.safetensors"}, "gone.safetensors"), ({"epochs": 1.5e6}, "num_train_epochs"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_named(tmp_path: Path, given: dict[str, Any], reported: str) -> None:
    assert reported not in unsupported(read(tmp_path, config()))
    assert reported in unsupported(read(tmp_path, config(**given)))


def test_the_shift_of_flow_matching_models(tmp_path: Path) -> None:
    """Configurations of these models can't be imported yet."""
    values = {"model_type": "FLUX_2", "timestep_distribution": "LOGIT_NORMAL", "timestep_shift": 3}
    for dynamic, shift in ((False, 3), (True, 1)):
        report = ImportReport(tmp_path)
        import_timesteps(report, NestedValues({**values, "dynamic_timestep_shifting": dynamic}, DEFAULTS))
        assert (report.settings["resolution_shift"], report.settings["timestep_shift"]) == (dynamic, shift)
        assert report.settings["timestep_sampling"] == "logit_normal" and not report.unsupported


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"training_method": "EMBEDDING"}, "EMBEDDING"), ({"training_method": "FINE_TUNE_VAE"}, "FINE_TUNE_VAE"),
        ({"model_type": "FLUX_DEV_1"}, "FLUX_DEV_1"), ({"model_type": "STABLE_DIFFUSION_35"}, "STABLE_DIFFUSION_35"),
        ({"concept_file_name": "gone.json"}, "gone.json"),
    ],
)  # fmt: skip
def test_what_can_not_be_trained_is_refused_by_name(tmp_path: Path, given: dict[str, Any], reported: str) -> None:
    with pytest.raises(UserError, match=reported) as error:
        read(tmp_path, config(**given), "mine.json")
    assert "mine.json" in str(error.value)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    found = read(tmp_path, config(secrets={"huggingface_token": "hf_secret"}, cloud={"api_key": "hf_secret"}))
    assert "hf_secret" not in str(found)


def test_only_concepts_where_only_concepts_are_asked_for(tmp_path: Path) -> None:
    rows = [concept(make_images(tmp_path / "a"))]
    (tmp_path / "config.json").write_text(json.dumps(config(concepts=rows)))
    found = recognize_concepts(tmp_path / "config.json")
    assert not found.settings and len(found.concepts) == 1 and "Only the concepts are used" in found.unsupported[-1]
    assert recognize_concepts(json.dumps(rows)).concepts == found.concepts, "pasted"
