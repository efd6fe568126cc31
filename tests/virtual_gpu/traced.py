"""Traces of a very small model on the fake GPU, as JSON; run by test_memory.py in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tools.virtual_gpu.device_guard import load_guard

load_guard()

from dreambooth.settings import Folders, ModelFolder  # noqa: E402
from tools.virtual_gpu.traced_run import trace  # noqa: E402

BASE = {"resolution": 64, "train_batch_size": 2, "mixed_precision": "bf16", "gradient_checkpointing": False}
LORA = {"use_lora": True, "stop_text_encoder": 0}
MODES = {
    "lora": LORA,
    "full": {"stop_text_encoder": 1, "use_ema": True},
}

if __name__ == "__main__":
    model = ModelFolder(Folders(Path(sys.argv[1])), "mini")
    results = {}
    for name, settings in MODES.items():
        traced = trace(model, {**BASE, **settings}, preview=name == "lora")
        peaks = {phase: {"": peak.bytes, **peak.categories} for phase, peak in traced.peaks.items()}
        results[name] = {"peaks": peaks, "syncs": traced.syncs, "copies": traced.copies}
    print(json.dumps(results))
