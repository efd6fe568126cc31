"""The embedded mini models, a subject to train them on, and the settings for that (see README.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.settings import ModelConfig, Settings, parse, read_concepts

FOLDER = Path(__file__).resolve().parent
CONCEPTS = FOLDER / "concepts.json"
SUBJECT = FOLDER / "subject"
_LORA: dict[str, Any] = {
    "use_lora": True,
    "lora_unet_rank": 16,
    "train_batch_size": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 20,
    "prior_loss_weight": 1.0,
    "gradient_checkpointing": False,
    "save_embedding_every": 0,
    "resolution": 128,
    "bucket_step": 32,
}


@dataclass(frozen=True)
class EmbeddedModel:
    """``settings``: those of the demo that differ from a new model's."""

    checkpoint: Path
    settings: dict[str, Any]


MODELS = {
    "sd": EmbeddedModel(
        FOLDER / "mini-sd.safetensors",
        {
            **_LORA,
            "lora_txt_rank": 16,
            "lora_learning_rate": 2e-3,
            "lora_txt_learning_rate": 5e-3,
            "num_train_epochs": 300,
            "save_preview_every": 75,
        },
    ),
    "zimage": EmbeddedModel(
        FOLDER / "mini-zimage.safetensors",
        {**_LORA, "lora_learning_rate": 2e-3, "num_train_epochs": 300, "save_preview_every": 75},
    ),
}
CHECKPOINT, SETTINGS = MODELS["sd"].checkpoint, MODELS["sd"].settings


def of_checkpoint(path: Path | str) -> EmbeddedModel | None:
    """The embedded model of this source, if it is one."""
    return next((model for model in MODELS.values() if model.checkpoint == path), None)


def with_demo_settings(config: ModelConfig, model: EmbeddedModel) -> ModelConfig:
    """``config`` of a new model with the demo's concept and settings."""
    concepts, _ = read_concepts(CONCEPTS)
    return dataclasses.replace(
        config, settings=parse(Settings, model.settings, base=config.settings), concepts=concepts
    )
