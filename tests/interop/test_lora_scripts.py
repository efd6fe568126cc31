"""Files of lora-scripts are imported as what its page hands to sd-scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dreambooth.interop import lora_scripts
from dreambooth.interop.kohya.import_report import ImportReport
from tests.interop.program_case import RUN, check_translation, import_data, make_images

SAMPLES = {"positive_prompts": "a fen,\nmist", "negative_prompts": "mud", "sample_cfg": 5, "sample_steps": 9}
RUN_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {
        "unet_lr": 1e-4, "text_encoder_lr": 1e-5, "network_args": [], "model_train_type": None, "clip_skip": 2,
        "lr_scheduler_num_cycles": 2, "noise_offset": None,
    }),
    "LyCORIS": (
        {"network_module": "lycoris.kohya", "lycoris_algo": "lokr", "conv_dim": 8, "conv_alpha": 4, "lokr_factor": 6,
         "train_norm": True, "network_args_custom": ["rank_dropout=0.1"]},
        {"network_args": "conv_dim=8 conv_alpha=4 dropout=0 algo=lokr factor=6 train_norm=True rank_dropout=0.1",
         "conv_dim": None, "lycoris_algo": None, "network_args_custom": None},
    ),
    "translated already": (
        {"network_module": "lycoris.kohya", "network_args": ["conv_dim=8", "algo=loha"], "optimizer_type": "Prodigy",
         "optimizer_args": ["decouple=True"]},
        {"network_args": "conv_dim=8 algo=loha", "optimizer_args": "decouple=True"},
    ),
    "blocks": (
        {"enable_block_weights": True, "down_lr_weight": "1,0", "mid_lr_weight": "1", "block_lr_zero_threshold": 0},
        {"network_args": "down_lr_weight=1,0 mid_lr_weight=1 block_lr_zero_threshold=0"},
    ),
    "no blocks": ({"enable_block_weights": False, "down_lr_weight": "1,0"}, {"network_args": []}),
    "Prodigy": (
        {"optimizer_type": "Prodigy", "prodigy_d_coef": "2.0", "prodigy_d0": "1e-5", "lr_warmup_steps": 5,
         "optimizer_args_custom": ["eps=1e-7"]},
        {"optimizer_args": "decouple=True weight_decay=0.01 use_bias_correction=True d_coef=2.0 "
                           "safeguard_warmup=True d0=1e-5 eps=1e-7"},
    ),
    "D-Adaptation": ({"optimizer_type": "DAdaptAdam", "enable_preview": False}, {
        "optimizer_args": "decouple=True weight_decay=0.01", "unet_lr": 1.0, "text_encoder_lr": 1.0,
    }),
    "SDXL": ({"model_train_type": "sdxl-lora", "v2": False, "learning_rate_te": 1e-6}, {
        "clip_skip": None, "learning_rate_te": None,
    }),
    "no samples": ({"enable_preview": False, "sample_every_n_epochs": 2, "sample_prompts": "a, b"}, {
        "sample_every_n_epochs": None, "sample_prompts": None,
    }),
    "samples by parts": ({"enable_preview": True, **SAMPLES}, {
        "sample_prompts": ["a fen, mist --n mud --l 5 --s 9"], "sample_steps": None,
    }),
    "samples in a text": ({"sample_prompts": "a fen, mist --n mud"}, {"sample_prompts": ["a fen, mist --n mud"]}),
    "samples in a file": ({"prompt_file": "prompts.txt", **SAMPLES}, {"sample_prompts": "prompts.txt"}),
    "base weights": ({"enable_base_weight": False, "base_weights": "a"}, {"base_weights": None}),
    "custom parameters": ({"ui_custom_params": "seed = 5\n[other]\nkeep_tokens = 2"}, {"seed": 5, "keep_tokens": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUN_CASES)
def test_parameters_of_lora_scripts_become_those_of_sd_scripts(tmp_path: Path, name: str) -> None:
    changes, expected = RUN_CASES[name]
    check_translation(lora_scripts.translate({**RUN, **changes}, ImportReport(tmp_path)), expected)


def test_lora_scripts_is_imported_from_each_of_its_files(tmp_path: Path) -> None:
    """A run in one table or in sections, a preset, and the exported history of the page."""
    make_images(tmp_path / "train" / "fen" / "6_fen")
    sections = {"a": dict(list(RUN.items())[:9]), "b": dict(list(RUN.items())[9:])}
    runs = [import_data(tmp_path, RUN, "run.toml"), import_data(tmp_path, sections, "sections.toml")]
    assert runs[0].settings == runs[1].settings and runs[0].concepts == runs[1].concepts
    assert runs[0].concepts[0].num_repeats == 6
    assert runs[0].settings["max_token_length"] == 225 and runs[0].settings["lr_cycles"] == 2
    preset = {
        "metadata": {"name": "wide", "version": "1", "train_type": "lora-master"},
        "data": {"resolution": "768,640"},
    }
    found = import_data(tmp_path, preset, "wide.toml")
    expected = {"resolution": 768, "resolution_height": 640, "lora_unet_rank": 32, "num_train_epochs": 10}
    assert {key: found.settings[key] for key in expected} == expected
    history = [{"time": "1/2", "value": {"seed": 1}}, {"time": "2/3", "name": "moor", "value": {"seed": 9}}]
    found = import_data(tmp_path, history)
    assert found.settings["seed"] == 9 and "moor" in "\n".join(found.unsupported)


def test_lora_scripts_chooses_repeats_for_a_flat_folder(tmp_path: Path) -> None:
    make_images(tmp_path / "train" / "fen", 11)
    found = import_data(tmp_path, RUN, "run.toml")
    assert [(concept.num_repeats, concept.default_caption) for concept in found.concepts] == [(5, "zkz")]
    assert "5 repeats" in "\n".join(found.unsupported)


def test_a_name_that_sd_scripts_ignore_is_reported(tmp_path: Path) -> None:
    without = ("model_train_type", "lr_scheduler_num_cycles", "train_data_dir")
    given = {key: value for key, value in RUN.items() if key not in without}
    found = import_data(tmp_path, {"optimizer": {**given, "lr_restart_cycles": 3}}, "default.toml")
    assert found.settings["lr_cycles"] == 1 and "lr_restart_cycles = 3" in "\n".join(found.unsupported)
