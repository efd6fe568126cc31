"""Presets of the kohya_ss GUI are imported as what it hands to sd-scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreambooth.interop import kohya_gui
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.settings import Settings, parse
from tests.interop.program_case import check_translation, import_data, make_images, page

PAGE_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {
        "network_module": "networks.lora", "network_args": [], "network_dim": 12, "network_alpha": 6,
        "unet_lr": 2e-4, "text_encoder_lr": 1e-4, "learning_rate": 3e-4, "optimizer_type": "AdamW",
        "optimizer_args": "weight_decay=0.05 betas=(0.9, 0.98)", "resolution": "192,128", "train_batch_size": 2,
        "max_train_epochs": 4, "max_train_steps": None, "lr_warmup_steps": 0.2, "lr_scheduler_num_cycles": 1,
        "seed": -1, "clip_skip": 2, "keep_tokens": 1, "max_token_length": 150, "noise_offset": None,
        "adaptive_noise_scale": None, "multires_noise_iterations": 6, "multires_noise_discount": 0.25, "sdpa": True,
        "xformers": None, "sample_prompts": ["a fen by day --n mud --s 9", "a fen by night"], "flip_aug": True,
        "color_aug": None, "bucket_reso_steps": 64, "gradient_accumulation_steps": 1, "save_every_n_epochs": 0,
        "network_train_unet_only": None, "network_train_text_encoder_only": None, "stop_text_encoder_training": None,
    }),
    "the other noise offset": ({"noise_offset_type": "Original"}, {
        "noise_offset": 0.04, "adaptive_noise_scale": 0.01, "multires_noise_iterations": None,
    }),
    "only the UNet": ({"text_encoder_lr": "0"}, {"network_train_unet_only": True, "text_encoder_lr": None}),
    "only the text encoder": ({"unet_lr": 0.0}, {"network_train_text_encoder_only": True, "unet_lr": None}),
    "one rate for both": ({"unet_lr": 0, "text_encoder_lr": ""}, {
        "unet_lr": None, "text_encoder_lr": None, "network_train_unet_only": None, "learning_rate": 3e-4,
        "network_train_text_encoder_only": None,
    }),
    "epochs override steps": ({"max_train_epochs": "7", "max_train_steps": "50"}, {
        "max_train_epochs": 7, "max_train_steps": None, "lr_warmup_steps": 0.2,
    }),
    "steps": ({"max_train_steps": 118, "lr_warmup": 10}, {"max_train_steps": 118, "lr_warmup_steps": 11}),
    "warm-up in steps": ({"lr_warmup_steps": "30"}, {"lr_warmup_steps": 30}),
    "Kohya LoCon": ({"LoRA_type": "Kohya LoCon", "block_dims": "1,2", "rank_dropout": 0.1}, {
        "network_module": "networks.lora", "network_args": "conv_dim=4 conv_alpha=2 block_dims=1,2 rank_dropout=0.1",
    }),
    "LoCon of old versions": ({"LoRA_type": "LoCon", "dora_wd": True}, {
        "network_module": "lycoris.kohya", "network_args": "conv_dim=4 conv_alpha=2 dora_wd=True algo=locon",
    }),
    "LoHa": ({"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "attn-mlp", "use_tucker": True}, {
        "network_args": "conv_dim=4 conv_alpha=2 use_tucker=True algo=loha preset=attn-mlp",
    }),
    "LoKr": ({"LoRA_type": "LyCORIS/LoKr", "factor": "8", "decompose_both": True, "LyCORIS_preset": "full"}, {
        "network_args": "conv_dim=4 conv_alpha=2 factor=8 decompose_both=True algo=lokr",
    }),
    "iA3": ({"LoRA_type": "LyCORIS/iA3", "train_on_input": False}, {
        "network_args": "conv_dim=4 conv_alpha=2 algo=ia3",
    }),
    "DyLoRA of LyCORIS": ({"LoRA_type": "LyCORIS/DyLoRA", "unit": 4}, {
        "network_args": "conv_dim=4 conv_alpha=2 block_size=4 algo=dylora",
    }),
    "DyLoRA of kohya": ({"LoRA_type": "Kohya DyLoRA"}, {
        "network_module": "networks.dylora", "network_args": "conv_dim=4 conv_alpha=2 unit=1",
    }),
    "LoRA-FA": ({"LoRA_type": "LoRA-FA"}, {"network_module": "networks.lora_fa", "network_args": []}),
    "Diag-OFT": ({"LoRA_type": "LyCORIS/Diag-OFT", "constrain": 0.5, "rescaled": True}, {
        "network_args": "conv_dim=4 conv_alpha=2 constraint=0.5 rescaled=True algo=diag-oft",
    }),
    "further parameters": (
        {"additional_parameters": '--max_grad_norm=0.5 --network_train_unet_only --optimizer_args "eps=1e-7"'},
        {"max_grad_norm": 0.5, "network_train_unet_only": True, "optimizer_args": "eps=1e-7"},
    ),
    "further parameters override": (
        {"additional_parameters": "--max_train_steps 70 --lr_warmup_steps=9 --vae=C:\\vae.pt", "vae": "D:/x"},
        {"max_train_steps": 70, "max_train_epochs": None, "lr_warmup_steps": 9, "vae": "C:\\vae.pt"},
    ),
    "0 is not handed over": ({"max_grad_norm": 0, "network_alpha": 0, "prior_loss_weight": 0}, {
        "max_grad_norm": 1.0, "network_alpha": 1, "prior_loss_weight": 1.0,
    }),
    "names of the first versions": (
        {"LoRA_type": None, "optimizer": None, "use_8bit_adam": True, "xformers": True, "lora_network_weights": "a.pt"},
        {"optimizer_type": "AdamW8bit", "xformers": True, "network_weights": "a.pt", "network_module": "networks.lora"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGE_CASES)
def test_the_lora_page_becomes_what_the_gui_hands_to_sd_scripts(tmp_path: Path, name: str) -> None:
    changes, expected = PAGE_CASES[name]
    fields = kohya_gui.rename_old_fields(page(changes))
    check_translation(kohya_gui.translate(fields, ImportReport(tmp_path)), expected)


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, 30), ({"reg_data_dir": "."}, 60), ({"gradient_accumulation_steps": 4}, 8)]
)
def test_the_gui_computes_the_steps_from_the_images(tmp_path: Path, changes: dict[str, Any], steps: int) -> None:
    """5 repeats of 3 images in 4 epochs, in batches of 2; folders without repeats don't count."""
    make_images(tmp_path / "img" / "5_fen lamp")
    make_images(tmp_path / "img" / "other")
    fields = page({"train_data_dir": "img", **changes})
    check_translation(
        kohya_gui.translate(fields, ImportReport(tmp_path)),
        {"max_train_steps": steps, "max_train_epochs": None, "lr_warmup_steps": int(0.2 * steps)},
    )
    found = import_data(tmp_path, fields)
    assert found.settings["max_train_steps"] == steps and found.settings["num_train_epochs"] >= 4


def test_an_imported_page_determines_every_setting(tmp_path: Path) -> None:
    """What a model's settings were before does not shine through, and nothing is lost without a message."""
    make_images(tmp_path / "img" / "5_fen lamp")
    found = import_data(tmp_path, page({"train_data_dir": "img", "LoRA_type": "LyCORIS/LoHa", "scale_weight_norms": 1}))
    before = {
        "use_lora": False, "lora_dora": True, "lora_type": "LoKr", "loss_type": "huber", "min_timestep": 200,
        "gradient_accumulation_steps": 8, "offset_noise": 0.3, "input_perturbation": 0.1, "train_unet": False,
        "preview_every_steps": 7, "save_embedding_every": 3, "max_grad_norm": 9.0, "weighted_captions": True,
        "optimizer_args": "eps=1", "lr_cycles": 5, "zero_terminal_snr": True,
    }  # fmt: skip
    settings = parse(Settings, found.settings, base=parse(Settings, before))
    expected = {
        "use_lora": True, "lora_dora": False, "lora_type": "LoHa", "loss_type": "l2", "min_timestep": 0,
        "gradient_accumulation_steps": 1, "offset_noise": 0.0, "input_perturbation": 0.0, "train_unet": True,
        "preview_every_steps": 0, "save_embedding_every": 0, "max_grad_norm": 1.0, "weighted_captions": False,
        "lr_cycles": 1, "zero_terminal_snr": False, "resolution": 192, "resolution_height": 128, "seed": -1,
        "lora_unet_rank": 12, "lora_unet_alpha": 6.0, "lora_learning_rate": 2e-4, "lora_txt_learning_rate": 1e-4,
        "weight_decay": 0.05, "multires_noise_iterations": 6, "hflip": True, "shuffle_tags": True,
        "bucket_rule": "kohya", "save_preview_every": 2, "scheduler": "DDIM", "use_lora_extended": True,
        "lora_conv_rank": 4,
    }  # fmt: skip
    assert {key: getattr(settings, key) for key in expected} == expected
    [concept] = found.concepts
    assert (concept.num_repeats, concept.caption_extension, concept.default_caption) == (5, ".txt", "fen lamp")
    assert (concept.save_sample_prompt, concept.save_sample_negative_prompt) == ("a fen by day", "mud")
    messages = "\n".join(found.unsupported)
    assert "scale_weight_norms = 1" in messages and "1 more prompt" in messages
    [about_files] = [line for line in found.unsupported if line.startswith("Not needed here")]
    assert all(key in about_files for key in ("cache_latents", "logging_dir", "output_dir", "save_precision"))
    assert len(found.unsupported) < 8


DREAMBOOTH_PAGE = page({"LoRA_type": None, "network_dim": None, "network_alpha": None, "unet_lr": None,
                        "text_encoder_lr": None, "learning_rate_te": 1e-6, "learning_rate": 5e-6})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"txt_learning_rate": 1e-6, "learning_rate": 5e-6, "stop_text_encoder": 1.0, "half_model": True}),
        ({"stop_text_encoder_training": 30}, {"stop_text_encoder": 0.3}),
        ({"stop_text_encoder_training_pct": -1}, {"stop_text_encoder": 0.0}),
        ({"sdxl": True, "learning_rate_te1": 2e-6, "learning_rate_te2": 2e-6}, {"txt_learning_rate": 2e-6}),
        ({"sdxl": True, "learning_rate_te1": 0, "learning_rate_te2": 0}, {"stop_text_encoder": 0.0}),
        ({"use_latent_files": "No", "train_text_encoder": False, "dataset_repeats": "6"}, {"stop_text_encoder": 0.0}),
    ],
)
def test_pages_for_full_training(tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = import_data(tmp_path, {**DREAMBOOTH_PAGE, **changes})
    assert {key: found.settings.get(key) for key in expected} == expected
    assert found.settings["use_lora"] is False


def test_the_finetuning_page_names_a_folder(tmp_path: Path) -> None:
    make_images(tmp_path / "pictures")
    fields = {**DREAMBOOTH_PAGE, "image_folder": "pictures", "train_dir": "meta", "dataset_repeats": "6", "epoch": 2}
    found = import_data(tmp_path, {**fields, "generate_caption_database": True})
    assert [(Path(c.instance_data_dir).name, c.num_repeats) for c in found.concepts] == [("pictures", 6)]
    assert found.settings["max_train_steps"] == 18
    (tmp_path / "meta").mkdir()
    images = {str(path): {"caption": "a lamp"} for path in (tmp_path / "pictures").glob("*.png")}
    (tmp_path / "meta" / "cap.json").write_text(json.dumps(images))
    found = import_data(tmp_path, {**fields, "caption_metadata_filename": "cap.json"})
    assert Path(found.concepts[0].metadata_file) == tmp_path / "meta" / "cap.json"
