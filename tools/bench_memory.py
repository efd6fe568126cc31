#!/usr/bin/env python
"""GPU memory of training and previews at full size, without a GPU: from the run's own step on fake tensors.

    python tools/bench_memory.py                         a table of all rows
    python tools/bench_memory.py --only SDXL             the rows whose names contain one of these words
    python tools/bench_memory.py --json memory.json      a list of {model, mode, phase, bytes, forecast}

Bytes are those allocated at the moment of the highest sum, with torch's rounding; a card needs about 0.8 GB more for
CUDA itself, workspaces and fragments. SD1.5 trains at 512 pixels, SDXL at 1024, with batch size 1 unless the row says
otherwise, gradient checkpointing unless it says "no checkpointing", and autocast in bf16. Adapters have rank 16.
``forecast``: what the check before a run says. Each row takes half a minute to two minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.virtual_gpu.device_guard import Unavailable, load_guard  # noqa: E402

if TYPE_CHECKING:
    from tools.virtual_gpu.traced_run import Trace

MODELS = {"SD1.5": ("v1x", "sd15"), "SDXL": ("SDXL", "sdxl-base")}
GB = 1e9


@dataclass(frozen=True)
class Row:
    model: str
    mode: str
    settings: dict[str, Any] = field(default_factory=dict)
    class_images: bool = False

    @property
    def name(self) -> str:
        return f"{self.model} {self.mode}"


BASE = {"mixed_precision": "bf16", "gradient_checkpointing": True, "stop_text_encoder": 0, "train_batch_size": 1}
LORA = {"use_lora": True, "lora_unet_rank": 16, "lora_txt_rank": 8}
TEXT, NO_CHECKPOINTING = {"stop_text_encoder": 1}, {"gradient_checkpointing": False}
PURE_BF16 = {"full_mixed_precision": True}
FUSED = {"fused_backward": True, "clip_each_tensor": True}
_BOTH = {
    "LoRA": LORA,
    "LoRA, text encoders too": {**LORA, **TEXT},
    "LoRA, no checkpointing": {**LORA, **NO_CHECKPOINTING},
    "LoRA, base in int8": {**LORA, "base_precision": "int8"},
    "LoRA, base in nf4": {**LORA, "base_precision": "nf4"},
    "LoRA, text encoders too, base in fp8": {**LORA, **TEXT, "base_precision": "fp8"},
    "LoRA, batch 4": {**LORA, "train_batch_size": 4},
    "full": {},
    "full, pure bf16": PURE_BF16,
    "full, Adafactor": {"optimizer": "Adafactor"},
    "full, fused": FUSED,
    "full, pure bf16, fused": {**PURE_BF16, **FUSED},
    "full, pure bf16, 8-bit, fused": {**PURE_BF16, **FUSED, "optimizer": "8bit AdamW"},
    "full, pure bf16, Adafactor, fused": {**PURE_BF16, **FUSED, "optimizer": "Adafactor"},
}
_SD15 = {
    "full, no checkpointing": NO_CHECKPOINTING,
    "full, text encoder too": TEXT,
    "full, EMA": {"use_ema": True},
    "full, EMA on the CPU": {"use_ema": True, "ema_on_cpu": True},
    "full, pure bf16, EMA": {**PURE_BF16, "use_ema": True},
    "LoCon": {**LORA, "use_lora_extended": True, "lora_conv_rank": 16},
    "LoHa": {**LORA, "lora_type": "LoHa"},
    "LoKr": {**LORA, "lora_type": "LoKr"},
    "DoRA": {**LORA, "lora_dora": True},
}
ROWS = [
    *(Row(model, mode, settings) for mode, settings in _BOTH.items() for model in MODELS),
    *(Row("SD1.5", mode, settings) for mode, settings in _SD15.items()),
    Row("SD1.5", "LoRA, class images", LORA, class_images=True),
]


def main() -> None:
    args = _arguments()
    rows = [row for row in ROWS if not args.only or any(word in row.name for word in args.only)]
    if not rows:
        sys.exit(f"No row contains {' or '.join(args.only)}. Rows: {', '.join(row.name for row in ROWS)}")
    try:
        load_guard()
    except Unavailable as reason:
        sys.exit(str(reason))
    warnings.simplefilter("ignore")
    records: list[dict[str, Any]] = []
    print("| model | mode | step | preview | forecast | launches | highest in |\n|---|---|---|---|---|---|---|")
    for row, trace in _traces(rows, args.memory):
        print(_line(row, trace), flush=True)
        records += [
            {"model": row.model, "mode": row.mode, "phase": phase, "bytes": peak.bytes, "forecast": trace.forecast}
            for phase, peak in trace.peaks.items()
        ]
        if args.json:  # after each row, for long tables that are interrupted
            args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows whose names contain one of these")
    parser.add_argument("--memory", type=float, default=24, metavar="GB", help="of the card (default: 24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the peaks of all phases to this file")
    return parser.parse_args()


def _traces(rows: list[Row], memory: float) -> Iterator[tuple[Row, Trace]]:
    from dreambooth.settings import Folders
    from tools.virtual_gpu.cuda_api import GpuModel
    from tools.virtual_gpu.hollow_model import create_hollow
    from tools.virtual_gpu.traced_run import trace

    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: create_hollow(Folders(Path(folder)), name, *MODELS[name]) for name in {row.model for row in rows}
        }
        for row in rows:
            yield (
                row,
                trace(
                    models[row.model],
                    {**BASE, **row.settings},
                    class_images=row.class_images,
                    gpu_model=GpuModel(memory=int(memory * GB)),
                ),
            )


def _line(row: Row, trace: Trace) -> str:
    preview = max(trace.peaks[phase].bytes for phase in ("sampling", "decoding"))
    phase = next(phase for phase, peak in trace.peaks.items() if peak is trace.step)
    figures = [f"{n / GB:.2f}" for n in (trace.step.bytes, preview, trace.forecast)]
    largest = sorted(trace.step.categories.items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{category} {n / GB:.2f}" for category, n in largest)
    return f"| {row.model} | {row.mode} | {' | '.join(figures)} | {trace.launches:,} | {phase}: {parts} |"


if __name__ == "__main__":
    main()
