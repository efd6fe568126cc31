"""The embedded mini Stable Diffusion model, a subject to train it on, and the settings for that (see README.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dreambooth.settings import ModelConfig, Settings, parse, read_concepts

FOLDER = Path(__file__).resolve().parent
CHECKPOINT = FOLDER / "mini-sd.safetensors"
CONCEPTS = FOLDER / "concepts.json"
SUBJECT = FOLDER / "subject"
SETTINGS: dict[str, Any] = {
    "use_lora": True,
    "lora_unet_rank": 16,
    "lora_txt_rank": 16,
    "lora_learning_rate": 2e-3,
    "lora_txt_learning_rate": 5e-3,
    "num_train_epochs": 300,
    "train_batch_size": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 20,
    "prior_loss_weight": 1.0,
    "gradient_checkpointing": False,
    "save_embedding_every": 0,
    "save_preview_every": 75,
    "resolution": 128,
    "bucket_step": 32,
}


def with_demo_settings(config: ModelConfig) -> ModelConfig:
    """``config`` of a new model with the demo's concept and settings."""
    concepts, _ = read_concepts(CONCEPTS)
    return dataclasses.replace(config, settings=parse(Settings, SETTINGS, base=config.settings), concepts=concepts)
