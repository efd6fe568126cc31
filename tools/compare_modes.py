"""What memory-saving modes cost in quality: each against plain float32 training of the embedded model.

    python tools/compare_modes.py --out FOLDER
    python tools/compare_modes.py --out FOLDER --only nf4 --seeds 1 --images 20

Each run trains the embedded model on its subject with class images, with the same images, captions, noise and timesteps
as the plain run of its seed. "loss" is the mean over all steps of the absolute difference between the smoothed loss
curves (mean of 20 steps), relative to the plain run's mean loss. Images of the trained models are sampled in float32
from the same noise and evaluated by the embedded classifier: the fraction of subject prompts that show the subject
("subject"), of other prompts that are followed ("prior"), and of class prompts that show a toy other than the subject
("class").

The results of each run are written to FOLDER/results when it is done; runs with results are skipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.compare_with_diffusers import CLASS_PROMPT, INSTANCE_PROMPT, METRICS, SAMPLER, measure  # noqa: E402

SMOOTHED = 20  # steps
RECIPE: dict[str, Any] = {
    "resolution": 128, "bucket_step": 32, "train_batch_size": 2, "num_train_epochs": 50, "lr_scheduler": "constant",
    "learning_rate": 4e-4, "txt_learning_rate": 4e-4, "lora_learning_rate": 1e-3, "lora_txt_learning_rate": 1e-3,
    "lora_unet_rank": 16, "lora_txt_rank": 16, "prior_loss_weight": 1.0, "mixed_precision": "no",
    "gradient_checkpointing": False, "save_preview_every": 0, "save_embedding_every": 0, "save_ckpt_after": False,
    "scheduler": SAMPLER, "sample_batch_size": 8, "max_grad_norm": 0.0,
}  # fmt: skip
LORA = {"use_lora": True}
FUSED = {"fused_backward": True}
CLIPPED = {"max_grad_norm": 1.0, "clip_each_tensor": True}
PURE_BF16 = {"mixed_precision": "bf16", "full_mixed_precision": True}
# Plain training of each kind first; the others are compared with it.
MODES: dict[str, dict[str, dict[str, Any]]] = {
    "LoRA": {
        "float32": LORA,
        "bf16": {**LORA, "mixed_precision": "bf16"},
        "int8": {**LORA, "base_precision": "int8"},
        "fp8": {**LORA, "base_precision": "fp8"},
        "nf4": {**LORA, "base_precision": "nf4"},
    },
    "full": {
        "float32": {},
        "fused": FUSED,
        "fused, each tensor clipped": {**FUSED, **CLIPPED},
        "pure bf16": PURE_BF16,
        "pure bf16, fused": {**PURE_BF16, **FUSED},
        "pure bf16, fused, 8-bit AdamW": {**PURE_BF16, **FUSED, "optimizer": "8bit AdamW"},
        "pure bf16, fused, Adafactor": {**PURE_BF16, **FUSED, "optimizer": "Adafactor"},
    },
}


def main() -> None:
    args = _arguments()
    results = args.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    for seed in range(1, args.seeds + 1):
        for kind, modes in MODES.items():
            for mode, settings in modes.items():
                name = f"{kind}, {mode}"
                if mode != "float32" and args.only and not any(word in name for word in args.only):
                    continue
                file = results / f"{name}, seed {seed}.json"
                if not file.exists():
                    file.write_text(json.dumps(_run(args.out, settings, seed, args.images)), encoding="utf-8")
                    print(
                        file.stem, {m: v for m, v in json.loads(file.read_text()).items() if m != "losses"}, flush=True
                    )
    print(table(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for models, images and results")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="modes whose names contain one of these")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each mode (default: %(default)s)")
    parser.add_argument("--images", type=int, default=40, metavar="N", help="per metric (default: %(default)s)")
    return parser.parse_args()


def _run(out: Path, settings: dict[str, Any], seed: int, n_images: int) -> dict[str, Any]:
    """Losses of all steps and the metrics of one run. All runs share their class images."""
    from dreambooth import actions, embedded
    from dreambooth.jobs import Events
    from dreambooth.settings import Concept, Folders, ModelFolder

    folder = out / "run"
    shutil.rmtree(folder, ignore_errors=True)
    model = ModelFolder(Folders(folder / "models"), "model")
    actions.create(model.folders, model.name, embedded.CHECKPOINT)
    concept = Concept(
        instance_data_dir=str(embedded.FOLDER / "subject"), instance_prompt=INSTANCE_PROMPT, class_prompt=CLASS_PROMPT,
        class_data_dir=str(out / "class_images"), num_class_images_per=12, class_infer_steps=10,
        class_guidance_scale=4.0, n_save_sample=0,
    )  # fmt: skip
    losses: dict[int, float] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            losses[event["step"]] = event["loss"]

    config = actions.configure(model, {**RECIPE, **settings, "seed": seed}, [concept])
    trained = actions.train(model, config, events=Events(None, listen))
    loras = [path for path in trained.files if path.parent == model.folders.loras]
    return {"losses": [losses[step] for step in sorted(losses)], **measure(model, loras, n_images, folder / "images")}


def table(results: Path) -> str:
    """Means over the seeds, as a Markdown table."""
    lines = [f"| mode | seeds | loss | {' | '.join(METRICS)} |", "|---" * (3 + len(METRICS)) + "|"]
    for kind, modes in MODES.items():
        plain = _results(results, f"{kind}, float32")
        for mode in modes:
            runs = _results(results, f"{kind}, {mode}")
            if not runs:
                continue
            differences = [_difference(run["losses"], plain[seed]["losses"]) for seed, run in runs.items()]
            metrics = [f"{statistics.mean(run[name] for run in runs.values()):.1%}" for name in METRICS]
            loss = f"{statistics.mean(differences):.2%}"
            lines.append(f"| {kind}, {mode} | {len(runs)} | {loss} | {' | '.join(metrics)} |")
    return "\n".join(lines)


def _results(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """By seed."""
    files = folder.glob(f"{name}, seed *.json")
    return {file.stem.rpartition(" ")[2]: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _difference(losses: list[float], plain: list[float]) -> float:
    pairs = list(zip(_smooth(losses), _smooth(plain), strict=True))
    return statistics.mean(abs(a - b) for a, b in pairs) / statistics.mean(plain)


def _smooth(losses: list[float]) -> list[float]:
    return [statistics.mean(losses[i : i + SMOOTHED]) for i in range(len(losses) - SMOOTHED + 1)]


if __name__ == "__main__":
    main()
