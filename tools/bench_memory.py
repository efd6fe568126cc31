#!/usr/bin/env python
"""GPU memory of a run's phases at full size, without a GPU: traced, and as the planner forecasts it.

    python tools/bench_memory.py                         a table of all rows
    python tools/bench_memory.py --only SDXL             the rows whose names contain one of these words
    python tools/bench_memory.py --json memory.json      a list of {model, mode, phase, bytes, forecast}; rows that are
                                                         in the file already are not computed again

Bytes are those allocated at the moment of the highest sum, with torch's rounding; a card needs about 0.8 GB more for
CUDA itself, workspaces and fragments. SD1.5 trains at 512 pixels, SD2 at 768, SDXL and later families at 1024, with
batch size 1 unless the row says otherwise, gradient checkpointing unless it says "no checkpointing", autocast in bf16.
Adapters have rank 16. "bytes" are traced on the fake GPU (tools/virtual_gpu), "forecast" is what the planner says
(dreambooth/memory/virtual_gpu.py). Each row takes half a minute to two minutes.
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

from dreambooth.files import write_json  # noqa: E402
from tools.virtual_gpu.device_guard import Unavailable, load_guard  # noqa: E402

if TYPE_CHECKING:
    from tools.virtual_gpu.traced_run import Trace

MODELS = {
    "SD1.5": ("v1x", "sd15"),
    "SD1.5 inpainting": ("v1x", "sd15-inpainting"),
    "SD2": ("v2x", "sd21-768-v"),
    "SDXL": ("SDXL", "sdxl-base"),
    "Z-Image": ("zimage", "z-image"),
    "Anima": ("anima", "anima"),
    "FLUX.1": ("flux1", "flux1-dev"),
    "Chroma": ("chroma", "chroma1-hd"),
    "FLUX.2 klein 4B": ("flux2_klein_4b", "flux2-klein-4b"),
    "FLUX.2 klein 9B": ("flux2_klein_9b", "flux2-klein-9b"),
}
GB = 1e9
AGREES = 0.05  # of the bytes of a phase


@dataclass(frozen=True)
class Row:
    model: str
    mode: str
    settings: dict[str, Any] = field(default_factory=dict)
    class_images: bool = False
    generates: bool = False  # class images first
    memory: float = 24  # GB of the card

    @property
    def name(self) -> str:
        return f"{self.model} {self.mode}"


BASE = {"mixed_precision": "bf16", "gradient_checkpointing": True, "stop_text_encoder": 0, "train_batch_size": 1}
LORA = {"use_lora": True, "lora_unet_rank": 16, "lora_txt_rank": 8}
TEXT, NO_CHECKPOINTING = {"stop_text_encoder": 1}, {"gradient_checkpointing": False}
PURE_BF16 = {"full_mixed_precision": True}
FUSED = {"fused_backward": True, "clip_each_tensor": True}
_ADAFACTOR = {**PURE_BF16, **FUSED, "optimizer": "Adafactor"}
_BOTH = {
    "LoRA": LORA,
    "LoRA, text encoders too": {**LORA, **TEXT},
    "LoRA, no checkpointing": {**LORA, **NO_CHECKPOINTING},
    "LoRA, base in int8": {**LORA, "base_precision": "int8"},
    "LoRA, offload": {**LORA, "offload_fraction": 1.0},
    "LoRA, base in nf4": {**LORA, "base_precision": "nf4"},
    "LoRA, text encoders too, base in fp8": {**LORA, **TEXT, "base_precision": "fp8"},
    "LoRA, batch 4": {**LORA, "train_batch_size": 4},
    "LoRA, batch 4, activation offload": {**LORA, "train_batch_size": 4, "offload_activations": True},
    "full": {},
    "full, pure bf16": PURE_BF16,
    "full, Adafactor": {"optimizer": "Adafactor"},
    "full, fused": FUSED,
    "full, pure bf16, fused": {**PURE_BF16, **FUSED},
    "full, pure bf16, 8-bit, fused": {**PURE_BF16, **FUSED, "optimizer": "8bit AdamW"},
    "full, pure bf16, Adafactor, fused": _ADAFACTOR,
    "full, pure bf16, 8-bit, fused, offload": {
        **PURE_BF16,
        **FUSED,
        "optimizer": "8bit AdamW",
        "offload_fraction": 1.0,
    },
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
    "LoRA, fp16": {**LORA, "mixed_precision": "fp16"},
    "LoRA, no mixed precision": {**LORA, "mixed_precision": "no"},
    "LoRA, 768 px": {**LORA, "resolution": 768},
    "LoRA, masked loss": {**LORA, "masked_loss": True},
    "full, 8-bit": {"optimizer": "8bit AdamW"},
    "full, EMA in bf16": {"use_ema": True, "ema_precision": "bf16"},
    "full, fused, EMA": {**FUSED, "use_ema": True},
    "full, SGD": {"optimizer": "SGD Nesterov"},
    "full, batch 2": {"train_batch_size": 2},
}
_Z_IMAGE = {
    "LoRA": LORA,
    "LoRA, activation offload": {**LORA, "offload_activations": True},
    "LoRA, base in int8": {**LORA, "base_precision": "int8"},
    "LoRA, base in int8, offload": {**LORA, "base_precision": "int8", "offload_fraction": 1.0},
    "LoRA, base in nf4": {**LORA, "base_precision": "nf4"},
    "LoRA, offload": {**LORA, "offload_fraction": 1.0},
    "full, pure bf16, Adafactor, fused": {**PURE_BF16, **FUSED, "optimizer": "Adafactor"},
}
_FLUX = {
    "LoRA, base in int8": {**LORA, "base_precision": "int8"},
    "LoRA, base in int8, offload": {**LORA, "base_precision": "int8", "offload_fraction": 1.0},
    "LoRA, base in nf4": {**LORA, "base_precision": "nf4"},
}
_KLEIN = ("LoRA", "LoRA, base in int8", "LoRA, base in int8, offload")
_OTHERS = {"LoRA": LORA, "full": {}}
ROWS = [
    *(Row(model, mode, settings) for mode, settings in _BOTH.items() for model in ("SD1.5", "SDXL")),
    *(Row("SD1.5", mode, settings) for mode, settings in _SD15.items()),
    *(Row(model, mode, settings) for mode, settings in _OTHERS.items() for model in ("SD1.5 inpainting", "SD2")),
    Row("SD1.5", "LoRA, class images", LORA, class_images=True),
    Row("SD1.5", "LoRA, class images generated", LORA, class_images=True, generates=True),
    *(Row("Z-Image", mode, settings) for mode, settings in _Z_IMAGE.items()),
    *(Row("Anima", mode, _Z_IMAGE[mode]) for mode in _KLEIN),
    *(Row(model, mode, settings) for mode, settings in _FLUX.items() for model in ("FLUX.1", "Chroma")),
    *(Row(f"FLUX.2 klein {size}", mode, _Z_IMAGE[mode]) for mode in _KLEIN for size in ("4B", "9B")),
    # With so little memory free, previews adapt to it: text encoders on the CPU, decoding in tiles and in bf16.
    Row("SD1.5", "LoRA, 2.5 GB free", LORA, memory=2.5),
    Row("SDXL", "LoRA, 7.2 GB free", LORA, memory=7.2),
    Row("SDXL", "LoRA, text encoders too, 9 GB free", {**LORA, **TEXT}, memory=9),
    Row("SDXL", "LoRA, base in int8, 5 GB free", {**LORA, "base_precision": "int8"}, memory=5),
    Row("SDXL", "LoRA, base in nf4, 4 GB free", {**LORA, "base_precision": "nf4"}, memory=4),
    Row("SDXL", "LoRA, offload, 3.2 GB free", {**LORA, "offload_fraction": 1.0}, memory=3.2),
    Row("SDXL", "full, pure bf16, Adafactor, fused, 7.2 GB free", _ADAFACTOR, memory=7.2),
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
    records = _read(args.json)
    done = {(record["model"], record["mode"]) for record in records}
    rows = [row for row in rows if (row.model, row.mode) not in done]
    print("| model | mode | step | preview | forecast: step | preview | launches | highest in |")
    print("|---|---|---|---|---|---|---|---|")
    for row, trace, forecast in _traces(rows):
        print(_line(row, trace, forecast), flush=True)
        records += [
            {"model": row.model, "mode": row.mode, "phase": phase, "bytes": peak.bytes, "forecast": forecast.get(phase)}
            for phase, peak in trace.peaks.items()
        ]
        if args.json:  # after each row, for long tables that are interrupted
            write_json(args.json, records)
    print(_agreement(records))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows whose names contain one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the peaks of all phases to this file")
    return parser.parse_args()


def _read(path: Path | None) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else []


def _agreement(records: list[dict[str, Any]]) -> str:
    """How many rows' forecasts are near in each phase, and the worst of the others."""
    worst: dict[str, float] = {}
    for record in records:
        name, planned = f"{record['model']} {record['mode']}", record["forecast"] or 0
        worst[name] = max(worst.get(name, 0.0), abs(planned / record["bytes"] - 1))
    far = [f"{name} {difference:.1%}" for name, difference in worst.items() if difference > AGREES]
    agreeing = f"{len(worst) - len(far)} of {len(worst)} rows agree within {AGREES:.0%} in each phase"
    return f"{agreeing}; the others: {', '.join(far)}" if far else agreeing


def _traces(rows: list[Row]) -> Iterator[tuple[Row, Trace, dict[str, int]]]:
    """Each row, its run on the fake GPU, and the planner's bytes by phase."""
    from dreambooth.memory.virtual_cuda import GpuModel
    from dreambooth.runs.memory_plan import MemoryRequest, Scenario, trace_memory
    from dreambooth.settings import Folders, parse
    from dreambooth.settings.run import Settings
    from tools.virtual_gpu.hollow_model import create_hollow
    from tools.virtual_gpu.traced_run import trace

    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: create_hollow(Folders(Path(folder)), name, *MODELS[name]) for name in {row.model for row in rows}
        }
        for row in rows:
            model, overrides, memory = models[row.model], {**BASE, **row.settings}, int(row.memory * GB)
            options = {"class_images": row.class_images, "generates": row.generates}
            traced = trace(model, overrides, **options, gpu_model=GpuModel(memory=memory))
            settings = parse(Settings, overrides, base=model.load().settings)
            size = settings.resolution, settings.resolution
            scenario = Scenario(settings.mixed_precision, size, **options)
            forecast = trace_memory(MemoryRequest(model, settings, scenario, memory))
            yield row, traced, {phase: peak.bytes for phase, peak in forecast.items()}


def _line(row: Row, trace: Trace, forecast: dict[str, int]) -> str:
    preview = max(trace.peaks[phase].bytes for phase in ("sampling", "decoding"))
    phase = next(phase for phase, peak in trace.peaks.items() if peak is trace.step)
    planned = forecast[phase], max(forecast["sampling"], forecast["decoding"])
    figures = [f"{n / GB:.2f}" for n in (trace.step.bytes, preview, *planned)]
    largest = sorted(trace.step.categories.items(), key=lambda item: -item[1])[:4]
    parts = ", ".join(f"{category} {n / GB:.2f}" for category, n in largest)
    return f"| {row.model} | {row.mode} | {' | '.join(figures)} | {trace.launches:,} | {phase}: {parts} |"


if __name__ == "__main__":
    main()
