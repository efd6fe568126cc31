"""Traces of a very small model on the fake GPU and by the planner, as JSON; run by test_memory.py in its own process.

Arguments: the folder of models, and the modes, by default all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tools.virtual_gpu.device_guard import load_guard

load_guard()

from dreambooth.memory.virtual_cuda import GpuModel  # noqa: E402
from dreambooth.runs.memory_plan import MemoryRequest, Scenario, trace_memory  # noqa: E402
from dreambooth.settings import Folders, ModelFolder, parse  # noqa: E402
from dreambooth.settings.run import Settings  # noqa: E402
from tools.virtual_gpu.traced_run import trace  # noqa: E402

BASE = {"resolution": 64, "train_batch_size": 2, "mixed_precision": "bf16", "gradient_checkpointing": False}
LORA, CHECKPOINTING = {"use_lora": True, "stop_text_encoder": 0}, {"gradient_checkpointing": True}
FULL, FUSED = {"stop_text_encoder": 1, "use_ema": True}, {"fused_backward": True, "clip_each_tensor": True}
BF16 = {"full_mixed_precision": True, "stop_text_encoder": 0}
MODES = {
    "lora": LORA,
    "full": FULL,
    "lora, checkpointing": {**LORA, **CHECKPOINTING},
    "lora of text encoders, fp16": {**LORA, "stop_text_encoder": 1, "mixed_precision": "fp16"},
    "lora, no mixed precision": {**LORA, "mixed_precision": "no", **CHECKPOINTING},
    "lora, int8": {**LORA, "base_precision": "int8", **CHECKPOINTING},
    "lora, nf4": {**LORA, "base_precision": "nf4"},
    "loha": {**LORA, "lora_type": "LoHa", "use_lora_extended": True, **CHECKPOINTING},
    "dora, masked loss": {**LORA, "lora_dora": True, "masked_loss": True},
    "full, checkpointing, EMA on the CPU": {**FULL, **CHECKPOINTING, "ema_on_cpu": True},
    "full, fused": {**FULL, **FUSED, **CHECKPOINTING},
    "full, bf16, EMA": {**BF16, "use_ema": True, "ema_precision": "bf16"},
    "full, bf16, Adafactor, fused": {**BF16, **FUSED, "optimizer": "Adafactor", **CHECKPOINTING},
    "full, bf16, 8-bit": {**BF16, "optimizer": "8bit AdamW"},
    "lora, blocks offloaded": {**LORA, **CHECKPOINTING, "offload_fraction": 1.0},
    "lora, int8, blocks and activations offloaded": {
        **LORA,
        **CHECKPOINTING,
        "base_precision": "int8",
        "offload_fraction": 0.5,
        "offload_activations": True,
    },
    "full, bf16, fused, blocks offloaded": {**BF16, **FUSED, **CHECKPOINTING, "offload_fraction": 1.0},
}
CLASS_IMAGES = ("lora",)

if __name__ == "__main__":
    model = ModelFolder(Folders(Path(sys.argv[1])), "mini")
    results = {}
    for name in sys.argv[2:] or MODES:
        overrides, memory = {**BASE, **MODES[name]}, 24 * 10**9
        with_class_images = {"class_images": name in CLASS_IMAGES, "generates": name in CLASS_IMAGES}
        traced = trace(model, overrides, **with_class_images, gpu_model=GpuModel(memory=memory))
        settings = parse(Settings, overrides, base=model.load().settings)
        scenario = Scenario(settings.mixed_precision, (64, 64), **with_class_images)
        planned = trace_memory(MemoryRequest(model, settings, scenario, memory))
        results[name] = {
            "peaks": {phase: {"": peak.bytes, **peak.categories} for phase, peak in traced.peaks.items()},
            "planned": {phase: {"": peak.bytes, **peak.categories} for phase, peak in planned.items()},
            "syncs": traced.syncs,
        }
    print(json.dumps(results))
