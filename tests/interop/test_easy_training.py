"""Files of LoRA_Easy_Training_Scripts are imported as what its backend writes for sd-scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dreambooth.interop import easy_training
from tests.interop.program_case import check_translation, easy_file, import_data, make_images

REX = "LoraEasyCustomOptimizer.RexAnnealingWarmRestarts.RexAnnealingWarmRestarts"
COSINE = "LoraEasyCustomOptimizer.CosineAnnealingWarmRestarts.CosineAnnealingWarmRestarts"
EASY_CASES: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "as it is": ({}, {
        "network_module": "networks.lora", "network_dim": 16, "network_alpha": 8.0, "lr_warmup_steps": 0.1,
        "optimizer_args": "weight_decay=0.2 betas=0.9,0.99", "max_train_epochs": 3, "warmup_ratio": None,
        "min_timestep": None, "output_name": "fen",
    }),
    "steps": ({"general_args__args": {"max_train_steps": 50, "max_train_epochs": 0}}, {
        "max_train_steps": 50, "max_train_epochs": None, "lr_warmup_steps": 5,
    }),
    "LyCORIS": ({"network_args__args": {"network_args": {"algo": "lokr", "conv_dim": 4, "factor": "8"}}}, {
        "network_module": "lycoris.kohya", "network_args": "algo=lokr conv_dim=4 factor=8",
    }),
    "DyLoRA": ({"network_args__args": {"network_args": {"unit": 4}}}, {"network_module": "networks.dylora"}),
    "LoRA-FA": ({"network_args__args": {"fa": True}}, {"network_module": "networks.lora_fa", "fa": None}),
    "dimensions of blocks": ({"network_args__args": {"network_args": {"block_dims": [4, 8]}}}, {
        "network_args": "block_dims=4,8",
    }),
    "ranks of a file": ({"network_args__args": {"dim_from_weights": "old.safetensors"}}, {
        "dim_from_weights": True, "network_weights": "old.safetensors",
    }),
    "0 is left out": ({"optimizer_args__args": {"text_encoder_lr": 0.0, "unet_lr": 0.0}}, {
        "text_encoder_lr": None, "unet_lr": None,
    }),
    "words": ({"network_args__args": {"network_train_unet_only": "true", "network_train_text_encoder_only": "False"}}, {
        "network_train_unet_only": True, "network_train_text_encoder_only": None,
    }),
    "a placeholder": ({"saving_args__args": {"easy_name": "moor", "output_name": "${replace}_v2"}}, {
        "output_name": "moor_v2", "easy_name": None,
    }),
    "rex": ({"optimizer_args__args": {"lr_scheduler_type": REX, "lr_scheduler_args": {"d": 0.9, "min_lr": 1e-6}}}, {
        "lr_scheduler": "rex", "lr_scheduler_type": None, "lr_scheduler_args": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", EASY_CASES)
def test_sections_of_easy_training_become_what_its_backend_writes(tmp_path: Path, name: str) -> None:
    changes, expected = EASY_CASES[name]
    result = easy_training.translate(easy_file(tmp_path, **changes))
    check_translation(result, expected)
    assert result.datasets == [{
        "resolution": [160, 128], "batch_size": 2, "enable_bucket": True, "min_bucket_reso": 64,
        "max_bucket_reso": 512, "bucket_reso_steps": 32,
        "subsets": [{"image_dir": str(tmp_path), "num_repeats": 4, "caption_extension": ".txt", "keep_tokens": 1,
                     "shuffle_caption": True}],
    }]  # fmt: skip


def test_easy_training_is_imported_from_each_of_its_files(tmp_path: Path) -> None:
    """Its TOML, the same as JSON, and what it sends to its backend, give the same concepts and settings."""
    data = easy_file(make_images(tmp_path / "lamps"))
    sent = {
        "args": {name: section["args"] for name, section in data.items() if "args" in section},
        "dataset": {"subsets": data["subsets"]} | {
            name: section["dataset_args"] for name, section in data.items() if "dataset_args" in section
        },
    }  # fmt: skip
    found = [import_data(tmp_path, data, "queue.toml"), import_data(tmp_path, data), import_data(tmp_path, sent)]
    assert found[0].concepts == found[1].concepts == found[2].concepts and len(found[0].concepts) == 1
    assert found[0].settings == found[1].settings == found[2].settings
    expected = {
        "resolution": 160, "resolution_height": 128, "train_batch_size": 2, "bucket_step": 32, "seed": 31,
        "num_train_epochs": 3, "lora_unet_rank": 16, "lora_learning_rate": 3e-4, "lora_txt_learning_rate": 1e-4,
        "weight_decay": 0.2, "lr_warmup_steps": 0.1, "use_lora": True, "save_embedding_every": 1,
    }  # fmt: skip
    assert {key: found[0].settings[key] for key in expected} == expected
    assert not any("{" in line for line in found[0].unsupported)


def test_easy_trainings_own_schedules(tmp_path: Path) -> None:
    arguments = {"lr_scheduler_type": COSINE, "lr_scheduler_num_cycles": 4, "warmup_ratio": 0,
                 "lr_scheduler_args": {"min_lr": 1e-5, "gamma": 0.9}}  # fmt: skip
    data = easy_file(make_images(tmp_path / "lamps"), optimizer_args__args=arguments)
    found = import_data(tmp_path, data, "a.toml")
    expected = {"lr_scheduler": "cosine_annealing_with_restarts", "lr_scale_pos": 0.25, "learning_rate_min": 1e-5}
    assert {key: found.settings[key] for key in expected} == expected
    assert "gamma=0.9" in "\n".join(found.unsupported)
    found = import_data(
        tmp_path, easy_file(tmp_path / "lamps", optimizer_args__args={**arguments, "lr_scheduler_type": REX})
    )
    assert found.settings["lr_scheduler"] == "rex"
    assert all(word in "\n".join(found.unsupported) for word in ("min_lr=1e-05", "num_cycles = 4", "d=0.9"))


def test_json_of_the_first_easy_training_versions(tmp_path: Path) -> None:
    make_images(tmp_path / "set" / "2_lamp")
    found = import_data(tmp_path, {
        "base_model": "m.ckpt", "img_folder": "set", "output_folder": "out", "save_json_folder": None,
        "tag_occurrence_txt_file": True, "change_output_name": "lamp", "optimizer_type": "DAdaptation",
        "optimizer_args": {"weight_decay": "0.1"}, "scheduler": "cosine", "warmup_lr_ratio": 0.5, "learning_rate": 1.0,
        "net_dim": 8, "alpha": 4, "train_resolution": 128, "height_resolution": 192, "batch_size": 1,
        "clip_skip": 2, "test_seed": 23, "num_epochs": 9, "max_steps": 40, "buckets": True,
        "min_bucket_resolution": 64, "max_bucket_resolution": 256, "shuffle_captions": True, "keep_tokens": None,
        "lyco": True, "network_args": {"conv_dim": "4", "conv_alpha": "1", "algo": "loha"}, "unet_only": True,
        "caption_extension": ".txt", "max_clip_token_length": 150, "save_json_only": False, "locon_dim": None,
    })  # fmt: skip
    expected = {
        "optimizer": "AdamW Dadaptation", "lora_type": "LoHa", "lora_conv_rank": 4, "lora_unet_rank": 8,
        "resolution": 128, "resolution_height": 192, "max_train_steps": 40, "lr_warmup_steps": 20.0, "seed": 23,
        "max_token_length": 150, "stop_text_encoder": 0.0, "custom_model_name": "lamp", "bucket_max_side": 256,
    }  # fmt: skip
    assert {key: found.settings[key] for key in expected} == expected
    assert [concept.num_repeats for concept in found.concepts] == [2]
