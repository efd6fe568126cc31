"""The runs that tools/run_hashes.py compares: source checkpoints, images, settings, and commands after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

NAME = "mini"  # of the model in every run
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "sd1": {"model_type": "v1x"},
    "sd1-ema": {"model_type": "v1x", "ema": True},
    "sd1-inpainting": {"model_type": "v1x", "inpainting": True},
    "sd2-512": {"model_type": "v2x-512"},
    "sd2-v": {"model_type": "v2x", "v_pred": True},
    "sdxl": {"model_type": "SDXL"},
    "sdxl-v": {"model_type": "SDXL", "v_pred": True, "ztsnr": True},
}
# Some of these are defaults, spelled out so that a new default does not look like a change of training.
BASE: dict[str, Any] = {
    "seed": 420420, "resolution": 64, "bucket_step": 32, "num_train_epochs": 2, "train_batch_size": 2,
    "save_preview_every": 0, "save_embedding_every": 0, "gradient_checkpointing": False, "mixed_precision": "no",
    "optimizer": "Torch AdamW", "lr_scheduler": "constant", "stop_text_encoder": 0, "shuffle_tags": False,
    "use_lora": False, "save_ckpt_after": False, "learning_rate": 1e-4, "txt_learning_rate": 1e-4,
    "lora_learning_rate": 1e-3, "lora_txt_learning_rate": 1e-3,
}  # fmt: skip
LORA = {"use_lora": True, "lora_unet_alpha": 2}
LOCON = {**LORA, "use_lora_extended": True, "lora_conv_rank": 2, "lora_conv_alpha": 1}
TEXT = {"stop_text_encoder": 1}
EMA = {"use_ema": True, "ema_decay": 0.9}
CLASSES = {"class_data_dir": "class"}
GENERATED = {"class_data_dir": "", "num_class_images_per": 1, "class_infer_steps": 2}
PREVIEWS = {"save_preview_every": 1, "sanity_prompt": "a red toy"}
LONG = {"sanity_prompt": "a (red:1.3) toy, " * 40, "max_token_length": 225, "weighted_captions": True, "clip_skip": 2}
PREVIEW = {"n_save_sample": 1, "save_infer_steps": 3, "save_sample_negative_prompt": "grey"}

# Commands after a run. Each writes {out}: a file or a folder of images.
CHECKPOINT = f"generate-ckpt {NAME} --models-dir {{models}} --out {{out}}.safetensors"
MERGED = f"{CHECKPOINT} --lora {{lora}}"
HALF_MERGED = f"{MERGED} --lora-weight 0.7 --lora-text-weight 0.5 --half"
SAMPLE = f"sample {NAME} --models-dir {{models}} --out {{out}} --prompt zwx --steps 3 --count 2 --width 96 --height 64"
EXTRACT = f"lora-extract --models-dir {{models}} --base {{source}} --tuned {NAME} --conv-rank 4"
EXTRACTED = f"{EXTRACT} --out {{out}}.safetensors"
RESIZED = "lora-resize {lora} --rank 2 --out {out}.safetensors"


@dataclass(frozen=True)
class Run:
    """What differs from BASE. ``stop_at``: the step at which a second copy of the run stops, to be resumed."""

    settings: Mapping[str, Any] | None  # None: the model is created, not trained
    model: str = "sd1"
    concept: Mapping[str, Any] = field(default_factory=dict)
    more_concepts: Sequence[Mapping[str, Any]] = ()
    create: Sequence[str] = ()
    stop_at: int = 0
    then: Mapping[str, str] = field(default_factory=dict)  # commands by the name of their results


RUNS = {
    "lora": Run(LORA),
    "lora-dropout": Run({**LORA, "lora_unet_dropout": 0.3}),
    "locon": Run(LOCON),
    "loha": Run({**LOCON, "lora_type": "LoHa"}, then={"merged": MERGED}),
    "lokr": Run({**LOCON, "lora_type": "LoKr", "lokr_factor": 2}, then={"merged": MERGED}),
    "dora": Run({**LOCON, "lora_dora": True}, then={"merged": MERGED}),
    "lora-text": Run({**LORA, **TEXT, "lora_txt_alpha": 1, "lora_txt_dropout": 0.2, "clip_skip": 2}),
    "lora-text-part": Run({**LORA, "stop_text_encoder": 0.5, "gradient_checkpointing": True}),
    "full": Run({"save_ckpt_after": True}),
    "full-text": Run({**TEXT, "tenc_grad_clip_norm": 0.5, "gradient_accumulation_steps": 2}),
    "text-only": Run({**TEXT, "train_unet": False, "freeze_clip_normalization": True}),
    "full-ema": Run({**EMA, "save_ckpt_after": True}),
    "ema-cpu": Run({**EMA, "ema_on_cpu": True}),
    "ema-bf16": Run({**EMA, "ema_precision": "bf16"}),
    "ema-extracted": Run({**EMA, "save_ckpt_after": True}, "sd1-ema", create=("--extract-ema",)),
    "full-bf16": Run({**TEXT, "mixed_precision": "bf16", "full_mixed_precision": True}),
    "mixed-bf16": Run({"mixed_precision": "bf16"}),
    "sdxl-lora": Run({**LORA, **TEXT}, "sdxl"),
    "sdxl-full": Run({**TEXT, "save_ckpt_after": True}, "sdxl"),
    "inpainting": Run({"save_ckpt_after": True}, "sd1-inpainting"),
    "v-prediction": Run({"save_ckpt_after": True}, "sd2-v"),
    "v-prediction-ztsnr": Run({**LORA, "zero_terminal_snr": True, "min_snr_gamma": 5}, "sd2-v"),
    "prior": Run({"prior_loss_scale": True, "prior_loss_target": 2}, concept=CLASSES),
    "prior-generated": Run(LORA, concept=GENERATED),
    "regularization": Run(
        LORA, more_concepts=[{"instance_data_dir": "class", "regularization": True, "num_repeats": 2}]
    ),
    "noise": Run({"offset_noise": 0.1, "min_snr_gamma": 5, "multires_noise_iterations": 4, "input_perturbation": 0.1}),
    "huber-debiased": Run({"loss_type": "huber", "debiased_estimation": True, "min_timestep": 50}),
    "dream-masked": Run({"use_dream": True, "masked_loss": True}, concept={"instance_data_dir": "masked"}),
    "captions": Run({
        **LORA, **TEXT, "shuffle_tags": True, "keep_tokens": 1, "tag_dropout": 0.3, "caption_dropout": 0.2,
        "hflip": True, "weighted_captions": True, "max_token_length": 150, "pad_tokens": False,
    }),
    "buckets": Run({"resolution": 128, "train_batch_size": 1, "lr_scheduler": "cosine", "lr_warmup_steps": 2}),
    "buckets-kohya": Run({"resolution": 128, "bucket_rule": "kohya"}),
    "validation": Run({**LORA, "validation_every": 2, "validation_share": 0.34}),
    "imagic": Run({"train_imagic": True, "imagic_steps": 3}, concept={"instance_data_dir": "one"}),
    "resume-lora": Run({**LORA, **TEXT, "lora_unet_dropout": 0.1, "hflip": True}, stop_at=4),
    "resume-full": Run({**TEXT, **EMA, "shuffle_tags": True}, concept=CLASSES, stop_at=4),
    "previews-lora": Run(
        {**LORA, **TEXT, **PREVIEWS}, concept={**PREVIEW, **GENERATED},
        then={"merged": MERGED, "half merged": HALF_MERGED, "sample": f"{SAMPLE} --lora {{lora}}", "resized": RESIZED},
    ),
    "previews-ema": Run(
        {**EMA, **PREVIEWS, "infer_ema": True, "scheduler": "PNDM"}, "sd1-ema", PREVIEW,
        then={"checkpoint": CHECKPOINT, "sample": SAMPLE, "extracted": EXTRACTED},
    ),
    "previews-bf16": Run(
        {**TEXT, **PREVIEWS, "mixed_precision": "bf16", "clip_skip": 2, "scheduler": "EulerAncestralDiscrete"},
        concept=PREVIEW, then={"half": f"{CHECKPOINT} --half"},
    ),
    "previews-v": Run(
        {**TEXT, **PREVIEWS, "scheduler": "EulerDiscrete", "zero_terminal_snr": True}, "sd2-v", PREVIEW,
        then={"checkpoint": CHECKPOINT, "half": f"{CHECKPOINT} --half"},
    ),
    "previews-v-lora": Run(
        {**LORA, **TEXT, **PREVIEWS, "scheduler": "DPMSolverMultistep"}, "sd2-v", {**PREVIEW, **GENERATED},
        then={"merged": MERGED, "half merged": HALF_MERGED},
    ),
    "previews-sdxl-lora": Run(
        {**LOCON, **TEXT, **PREVIEWS, "scheduler": "UniPCMultistep"}, "sdxl", {**PREVIEW, **GENERATED},
        then={"merged": MERGED, "half merged": HALF_MERGED, "sample": f"{SAMPLE} --lora {{lora}}", "resized": RESIZED},
    ),
    "previews-sdxl": Run(
        {**EMA, **PREVIEWS, "scheduler": "DEISMultistep", "weighted_captions": True}, "sdxl", PREVIEW,
        then={"checkpoint": CHECKPOINT, "half": f"{CHECKPOINT} --half", "extracted": EXTRACTED},
    ),
    "previews-inpainting": Run(
        {**PREVIEWS, **TEXT, "masked_loss": True}, "sd1-inpainting", {**PREVIEW, "instance_data_dir": "masked"},
        then={"checkpoint": CHECKPOINT, "half": f"{CHECKPOINT} --half"},
    ),
    "previews-inpainting-lora": Run(
        {**LORA, **PREVIEWS}, "sd1-inpainting", {**PREVIEW, **GENERATED}, then={"merged": MERGED}
    ),
    "previews-long": Run({**LORA, **TEXT, **PREVIEWS, **LONG}, concept=PREVIEW),
    "previews-long-sdxl": Run({**LORA, **TEXT, **PREVIEWS, **LONG}, "sdxl", PREVIEW),
    "previews-imagic": Run(
        {"train_imagic": True, "imagic_steps": 3, **PREVIEWS}, concept={**PREVIEW, "instance_data_dir": "one"},
        then={"sample": SAMPLE},
    ),
    "previews-sd2-512": Run({**EMA, **TEXT, **PREVIEWS}, "sd2-512", PREVIEW, then={"checkpoint": CHECKPOINT}),
    "previews-sdxl-v": Run(
        {**TEXT, **PREVIEWS, "min_snr_gamma": 5}, "sdxl-v", PREVIEW, then={"checkpoint": CHECKPOINT}
    ),
    **{
        f"untrained-{model}": Run(
            None, model, then={"checkpoint": CHECKPOINT, "half": f"{CHECKPOINT} --half", "sample": SAMPLE}
        )
        for model in CHECKPOINTS
    },
    "untrained-extracted": Run(None, "sd1-ema", create=("--extract-ema",), then={"checkpoint": CHECKPOINT}),
    "untrained-fp32": Run(None, create=("--precision", "fp32"), then={"half": f"{CHECKPOINT} --half"}),
}  # fmt: skip


def concepts(run: Run) -> list[dict[str, Any]]:
    concept = {
        "instance_data_dir": "instance", "class_data_dir": "", "instance_token": "zwx", "class_token": "toy",
        "instance_prompt": "[filewords]", "class_prompt": "[filewords]", "n_save_sample": 0,
    }  # fmt: skip
    return [{**concept, **changed} for changed in (run.concept, *run.more_concepts)]


def write_images(folder: Path) -> None:
    """Images of three shapes in several folders, each with a caption of tags, some with a mask."""
    for kind, count in (("instance", 6), ("class", 4), ("masked", 3), ("one", 1)):
        (folder / kind).mkdir()
        for i in range(count):
            path = folder / kind / f"{i}.png"
            image = _image(i + 10 * len(kind), [(80, 80), (120, 72), (72, 120)][i % 3])
            image.save(path)
            name = "toy" if kind == "class" else "zwx toy"
            tags = ["(soft light:1.2)", "grey floor", "from above", ["red", "green", "blue"][i % 3]]
            path.with_suffix(".txt").write_text(", ".join([f"a {name}", *tags]), encoding="utf-8")
            if kind == "masked":
                mask = Image.new("L", image.size, 0)
                mask.paste(255, (0, 0, image.width // 2, image.height))
                mask.save(path.with_name(f"{i}_mask.png"))


def _image(number: int, size: tuple[int, int]) -> Image.Image:
    """Integer arithmetic only: the same pixels everywhere."""
    width, height = size
    pixels = bytes(
        (x * (3 + number % 5) * (channel + 1) + y * (2 + number % 7) + number * 31 + (x * y * channel) // 16) % 256
        for y in range(height)
        for x in range(width)
        for channel in range(3)
    )
    return Image.frombytes("RGB", size, pixels)
