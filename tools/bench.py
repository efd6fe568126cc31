"""Benchmark of the training loop, compared with a bare torch loop over the same modules: ratios within one run.

    python tools/bench.py                        embedded and medium model, full and LoRA
    python tools/bench.py --models mini --modes lora --rounds 8
    python tools/bench.py --checkpoint sd15.safetensors --resolution 512 --batch 1 4 --precision bf16

The bare loop does forward, backward and a fused AdamW step on a prepared batch, nothing else; with LoRA over the same
adapters. "start" is the time from process start to the end of the first step, with an empty cache; the bare process
imports and loads only what this one step needs. Peak memory: of the process (CPU) or of the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EMBEDDED = ROOT / "dreambooth" / "embedded"
# Stable Diffusion 1.x with fewer channels: 34 million UNet parameters.
MEDIUM = {"unet": (64, 128, 256, 256), "vae": (32, 64, 128, 128), "text": 128, "layers": 4}


def main() -> None:
    args = _arguments()
    if args.one:
        return _one(json.loads(args.one))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        names = _make_models(args, models)
        for name in names:
            for mode in args.modes:
                for batch in args.batch:
                    row = _row(args, models, name, mode, batch)
                    print(json.dumps(row), flush=True)


def _row(args: argparse.Namespace, models: Path, name: str, mode: str, batch: int) -> dict:
    job = {
        "models": str(models), "name": name, "mode": mode, "batch": batch, "precision": args.precision,
        "resolution": _resolution(args, name), "rounds": args.rounds, "steps": args.steps,
        "checkpointing": args.checkpointing,
    }  # fmt: skip
    row = {"model": name, "mode": mode, "batch": batch, "precision": args.precision}
    row |= _in_process({**job, "what": "steps"})
    row["ratio"] = round(row["ours"] / row["bare"], 3)
    if args.starts:
        starts = {what: [] for what in ("start_ours", "start_bare")}
        for _ in range(args.starts):
            for what, seconds in starts.items():  # alternating, so that other load slows both alike
                shutil.rmtree(models / "dreambooth" / name / "cache", ignore_errors=True)
                outcome = _in_process({**job, "what": what})
                seconds.append(outcome["seconds"])
                row[f"{what}_peak_mb"] = outcome["peak_mb"]
        row |= {what: round(statistics.median(seconds), 2) for what, seconds in starts.items()}
        row["start_ratio"] = round(row["start_ours"] / row["start_bare"], 3)
    return row


def _in_process(job: dict) -> dict:
    """Run one measurement in a separate process. ``started`` is the time before the interpreter starts."""
    job = {**job, "started": time.time()}
    run = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(job)],
        capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(run.stderr[-3000:])
    return json.loads(run.stdout.strip().splitlines()[-1])


# -- in the measured process ----------------------------------------------------------------------------------


def _one(job: dict) -> None:
    result = {"steps": _steps, "start_ours": _start_ours, "start_bare": _start_bare}[job["what"]](job)
    print(json.dumps({**result, "peak_mb": _peak_mb()}))


def _steps(job: dict) -> dict:
    """Seconds per step of both loops, measured alternately, and the GPU memory of ours."""
    from tools.bare_loop import measure

    session, loop = _session(job)
    gpu = {}
    if session.device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        for group in loop.accumulation_groups(0)[:2]:
            loop.step(group)
        gpu = {"gpu_peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}
    ours, bare = measure(session, loop, job["rounds"], job["steps"])
    session.close()
    return {"ours": round(ours, 5), "bare": round(bare, 5), **gpu}


def _start_ours(job: dict) -> dict:
    session, loop = _session(job)
    loop.step(loop.accumulation_groups(0)[0])
    _wait_for(session.device)
    seconds = time.time() - job["started"]
    session.close()
    return {"seconds": seconds}


def _start_bare(job: dict) -> dict:
    """The minimum for one step: torch, the UNet, random inputs."""
    import torch
    import torch.nn.functional as F
    from diffusers import UNet2DConditionModel

    working = Path(job["models"]) / "dreambooth" / job["name"] / "working"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = UNet2DConditionModel.from_pretrained(working / "unet", torch_dtype=torch.float32)
    unet.to(device)  # pyright: ignore[reportArgumentType] (diffusers' decorator hides self)
    parameters = _bare_parameters(unet, job["mode"], working)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    side = job["resolution"] // 8
    latents = torch.randn(job["batch"], 4, side, side, device=device)
    text = torch.randn(job["batch"], 77, unet.config["cross_attention_dim"], device=device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(job["precision"])
    with torch.autocast(device, dtype, enabled=dtype is not None):
        t = torch.randint(1000, (job["batch"],), device=device)
        loss = F.mse_loss(unet(latents, t, text).sample.float(), latents)
    loss.backward()
    optimizer.step()
    _wait_for(torch.device(device))
    return {"seconds": time.time() - job["started"]}


def _bare_parameters(unet, mode: str, working: Path) -> list:
    if mode == "full":
        return list(unet.parameters())
    from dreambooth.checkpoints.modules import Modules, load_family, load_layout
    from dreambooth.training.adapters import AdapterConfig, inject

    unet.requires_grad_(False)
    family = load_family(working)
    modules = Modules(family, load_layout(working, family), {}, {"unet": unet})
    layers = inject(modules, "unet", AdapterConfig("LoRA", 16, 16), 0)
    return [p for layer in layers.values() for p in layer.trainable_parameters().values()]


def _session(job: dict):
    from dreambooth import actions
    from dreambooth.jobs import Controls, Events
    from dreambooth.settings import Concept, Folders, ModelFolder
    from dreambooth.training.loop import Hooks, Loop
    from dreambooth.training.session import Session

    model = ModelFolder(Folders(Path(job["models"])), job["name"])
    settings = {
        "use_lora": job["mode"] == "lora", "lora_unet_rank": 16, "train_batch_size": job["batch"],
        "stop_text_encoder": 0, "mixed_precision": job["precision"], "resolution": job["resolution"],
        "gradient_checkpointing": job["checkpointing"], "num_train_epochs": 1000, "bucket_step": 32,
    }  # fmt: skip
    concept = Concept(instance_data_dir=str(Path(job["models"]) / "images"), instance_token="zwx", class_token="toy")
    config = actions.configure(model, settings, [concept])
    from dreambooth.runs.preflight import preflight

    checked = preflight(model, config)
    events = Events(model.logging)
    session = Session(checked.context(Controls(), events))
    return session, Loop(session, Hooks(preview=lambda: None, save=lambda when: None))


def _wait_for(device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def _peak_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


# -- models and images ----------------------------------------------------------------------------------------


def _make_models(args: argparse.Namespace, models: Path) -> list[str]:
    from dreambooth import actions
    from dreambooth.settings import Folders

    _make_images(models / "images", max(_resolution(args, name) for name in args.models))
    if args.checkpoint:
        actions.create(Folders(models), "checkpoint", args.checkpoint)
        return ["checkpoint"]
    for name in args.models:
        source = EMBEDDED / "mini-sd.safetensors" if name == "mini" else _make_medium(models.parent / "medium")
        actions.create(Folders(models), name, source)
    return args.models


def _make_images(folder: Path, side: int) -> None:
    """12 images of noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def _make_medium(folder: Path) -> Path:
    """A diffusers folder with the architecture of Stable Diffusion 1.x and random weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from dreambooth.models.sd.sd1 import SD1
    from dreambooth.models.sd.tokenizer import write_tokenizer

    torch.manual_seed(0)
    width = MEDIUM["text"]
    UNet2DConditionModel(
        sample_size=32, block_out_channels=MEDIUM["unet"], cross_attention_dim=width, attention_head_dim=8
    ).save_pretrained(folder / "unet")
    blocks: dict[str, Any] = {
        "block_out_channels": MEDIUM["vae"],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    vae = AutoencoderKL(**blocks, layers_per_block=2, latent_channels=4, scaling_factor=0.18215, sample_size=256)
    vae.save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=MEDIUM["layers"],
                       num_attention_heads=4, vocab_size=49408)
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD1.scheduler_config("epsilon", {}, {})))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _resolution(args: argparse.Namespace, name: str) -> int:
    return args.resolution or (128 if name == "mini" else 256)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mini", "medium"], choices=["mini", "medium"])
    parser.add_argument("--checkpoint", help="measure with this checkpoint instead")
    parser.add_argument("--modes", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--resolution", type=int, default=0)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, in both loops")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of both loops")
    parser.add_argument("--steps", type=int, default=8, help="steps per round and loop")
    parser.add_argument("--starts", type=int, default=3, help="process starts of each loop; 0 for none")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
