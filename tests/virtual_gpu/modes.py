"""The training modes that run on the virtual GPU, as short runs of a very small model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreambooth.settings.training import OPTIMIZERS
from tools.hashed_runs import BASE, CLASSES, EMA, GENERATED, LOCON, LORA, PREVIEWS, RUNS, TEXT, Run

BF16, FP16 = {"mixed_precision": "bf16"}, {"mixed_precision": "fp16"}
PURE_BF16 = {**BF16, "full_mixed_precision": True}
FUSED = {"fused_backward": True, "clip_each_tensor": True}
GRAPHS = {"cuda_graphs": True, "train_batch_size": 1, "stop_text_encoder": 0}
CHECKPOINTING = {"gradient_checkpointing": True}
OFFLOAD = {**CHECKPOINTING, "offload_fraction": 1.0, "offload_activations": True}
KERNELS = {"allow_tf32": True, "cudnn_benchmark": True, "channels_last": True}
PREVIEW = {"n_save_sample": 1, "save_infer_steps": 2, "save_guidance_scale": 1}
MASKED = {**PREVIEW, "instance_data_dir": "masked"}
VALIDATION = {"validation_every": 2, "validation_share": 0.17}


def changed(run: Run, settings: Mapping[str, Any]) -> Run:
    """The run with other settings."""
    return dataclasses.replace(run, settings={**(run.settings or {}), **settings})


def precision_of(run: Run) -> str:
    return {**BASE, **(run.settings or {})}["mixed_precision"]


# Each has several of the features that have code of their own on a GPU. The normal suite runs these.
QUICK: Mapping[str, Run] = {
    "lora, all around": Run(
        {**LOCON, **TEXT, **CHECKPOINTING, **VALIDATION, "lora_unet_dropout": 0.1, "max_train_steps": 3},
        concept={**PREVIEW, **GENERATED, "class_infer_steps": 1}, stop_at=1,
    ),
    "full, EMA on the CPU": Run(
        {**TEXT, **EMA, "ema_on_cpu": True, "infer_ema": True, "save_ckpt_after": True,
         "stop_text_encoder": 0.34, "max_train_steps": 3},
        concept={**PREVIEW, **CLASSES},
    ),
    "inpainting, masked": Run(
        {"masked_loss": True, "gradient_accumulation_steps": 2, "cuda_graphs": True, "max_train_steps": 3},
        "sd1-inpainting", MASKED,
    ),
    "pure bf16": Run({**PURE_BF16, **EMA, "ema_precision": "bf16", "max_train_steps": 3}),
    "base in int8": Run({**LOCON, **TEXT, "base_precision": "int8", "max_train_steps": 2}, concept=PREVIEW),
    "offload, LoRA": Run({**LOCON, **OFFLOAD, **KERNELS, "max_train_steps": 3}, concept=PREVIEW, stop_at=1),
    "offload, full": Run(
        {**TEXT, **EMA, **OFFLOAD, **FUSED, "offload_fraction": 0.7, "infer_ema": True, "max_train_steps": 3},
        concept=PREVIEW, stop_at=1,
    ),
    "fp16": Run({**LOCON, **TEXT, **FP16, "max_train_steps": 3}, concept=PREVIEW),
}  # fmt: skip

ALL: Mapping[str, Run] = {
    **QUICK,
    **{name: run for name, run in RUNS.items() if run.settings is not None},
    **{
        f"{name}, checkpointing": changed(RUNS[name], {**TEXT, **CHECKPOINTING})
        for name in ("lora", "locon", "loha", "lokr", "dora", "full", "sdxl-lora", "sdxl-full")
    },
    **{
        f"{name}, {precision['mixed_precision']}": changed(RUNS[name], precision)
        for name in ("lora", "loha", "dora", "full", "full-text", "full-ema", "inpainting", "sdxl-lora")
        for precision in (BF16, FP16)
    },
    "fp16, LoKr": Run({**LORA, **FP16, "lora_type": "LoKr", "lora_dora": True, "max_train_steps": 3}),
    "fp16, resumed": Run({**TEXT, **EMA, **FP16}, concept=CLASSES, stop_at=4),
    "pure bf16, resumed": Run({**TEXT, **EMA, **PURE_BF16}, concept=CLASSES, stop_at=4),
    "pure bf16, EMA on the CPU": Run({**PURE_BF16, **EMA, **PREVIEWS, "ema_on_cpu": True, "infer_ema": True}),
    "base in fp8, bf16": Run({**LORA, **TEXT, **BF16, **CHECKPOINTING, "base_precision": "fp8"}, stop_at=4),
    "base in nf4": Run({**LOCON, **TEXT, "base_precision": "nf4", "max_train_steps": 2}, concept=PREVIEW),
    "fused backward pass": Run({**TEXT, **EMA, **CHECKPOINTING, **FUSED, "stop_text_encoder": 0.5}, stop_at=4),
    **{
        f"fused backward pass, pure bf16, {name}": Run({**TEXT, **PURE_BF16, **FUSED, "optimizer": name})
        for name in ("Torch AdamW", "Adafactor")
    },
    "offload, EMA on the CPU": Run(
        {**EMA, **OFFLOAD, **FUSED, "ema_on_cpu": True, "stop_text_encoder": 0.5}, stop_at=4
    ),
    "offload, base in int8": Run({**LORA, **TEXT, **BF16, **OFFLOAD, "base_precision": "int8"}, stop_at=4),
    "offload, base in nf4, DoRA": Run({**LORA, **OFFLOAD, "base_precision": "nf4", "lora_dora": True}),
    "offload, pure bf16, Adafactor": Run({**PURE_BF16, **OFFLOAD, **FUSED, "optimizer": "Adafactor"}, stop_at=4),
    "offload, SDXL": Run({**LORA, **TEXT, **OFFLOAD, "max_train_steps": 2}, "sdxl"),
    **{
        f"CUDA graphs, {name}": changed(RUNS[name], {**precision, **CHECKPOINTING, **GRAPHS})
        for name, precision in (("lora", FP16), ("sdxl-lora", BF16), ("full", PURE_BF16))
    },
    "sliced attention": Run({**LORA, "attention": "sliced"}),
    "gradients zeroed": Run({"gradient_set_to_none": False}),
    **{f"optimizer {name}": Run({**LORA, "optimizer": name, "max_train_steps": 3}) for name in OPTIMIZERS},
    **{
        f"optimizer {name}, full": Run({**TEXT, "optimizer": name, "max_train_steps": 3})
        for name in ("Adafactor", "Lion", "Prodigy", "Schedule-Free AdamW")
    },
}
