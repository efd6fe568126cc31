#!/usr/bin/env python
"""Short training runs and a hash of each one's final weights: do they stay the same, to the bit?

    python tools/run_hashes.py --json before.json       before a change that should not alter training
    python tools/run_hashes.py --compare before.json    after it; exits with 1 and names the runs that differ
    python tools/run_hashes.py --only lora full-ema     some of them

The models have few channels and random weights; the images are generated here. Every run goes through the command
line, on the CPU, with one thread. A hash covers the tensors (key, dtype, shape, bytes) of the files that a run
leaves: the LoRA, the components in working/ with their EMA, the exported checkpoint. File metadata is left out: it
holds the time. Hashes are only comparable on the same machine with the same libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before torch is imported: the order of additions depends on the number of threads, and the results on the device.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MKL_CBWR="AUTO", CUDA_VISIBLE_DEVICES="")
# The environment of a distributed launcher would make this process wait for others.
for _variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(_variable, None)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402

from dreambooth.cli import main as command_line  # noqa: E402
from tests.mini_models import make  # noqa: E402

torch.set_num_threads(1)

NAME = "mini"  # of the model in every run
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "sd1": {"model_type": "v1x"},
    "sd1-ema": {"model_type": "v1x", "ema": True},
    "sd1-inpainting": {"model_type": "v1x", "inpainting": True},
    "sd2-v": {"model_type": "v2x", "v_pred": True},
    "sdxl": {"model_type": "SDXL"},
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


@dataclass(frozen=True)
class Run:
    """What differs from BASE. ``stop_at``: the step at which a second copy of the run stops, to be resumed."""

    settings: Mapping[str, Any]
    model: str = "sd1"
    concept: Mapping[str, Any] = field(default_factory=dict)
    more_concepts: Sequence[Mapping[str, Any]] = ()
    create: Sequence[str] = ()
    stop_at: int = 0


RUNS = {
    "lora": Run(LORA),
    "lora-dropout": Run({**LORA, "lora_unet_dropout": 0.3}),
    "locon": Run(LOCON),
    "loha": Run({**LOCON, "lora_type": "LoHa"}),
    "lokr": Run({**LOCON, "lora_type": "LoKr", "lokr_factor": 2}),
    "dora": Run({**LOCON, "lora_dora": True}),
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
    "prior-generated": Run(
        LORA, concept={**CLASSES, "class_data_dir": "", "num_class_images_per": 1, "class_infer_steps": 2}
    ),
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
}  # fmt: skip
RESUMED = " (resumed)"


def main() -> int:
    args = _arguments()
    recorded = json.loads(args.compare.read_text(encoding="utf-8")) if args.compare else None
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in _hashes(Path(folder), args.only or list(RUNS)):
            hashes[name] = digest
            print(f"{name:<26} {digest}", flush=True)
    if args.json:
        text = json.dumps({"environment": _environment(), "hashes": hashes}, indent=2)
        args.json.write_text(text + "\n", encoding="utf-8")
    problems = [
        f"{name}: the resumed run differs from the straight one"
        for name in RUNS
        if hashes.get(name) != hashes.get(name + RESUMED, hashes.get(name))
    ]
    if recorded:
        problems += _differences(recorded, hashes, complete=not args.only)
    for problem in problems:
        print(problem, file=sys.stderr)
    if recorded and not problems:
        print(f"All {len(hashes)} hashes are as recorded.", file=sys.stderr)
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME", help=f"some of {', '.join(RUNS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the hashes to this file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with the hashes in this file")
    return parser.parse_args()


def _differences(recorded: dict[str, Any], hashes: dict[str, str], complete: bool) -> list[str]:
    before, environment = recorded["hashes"], _environment()
    problems = [
        f"{name}: {'differs' if name in before else 'is not in the recorded file'}"
        for name, digest in hashes.items()
        if before.get(name) != digest
    ]
    if complete:
        problems += [f"{name}: recorded, but no longer run" for name in before if name not in hashes]
    if recorded["environment"] != environment:
        print(f"Recorded with {recorded['environment']}, now {environment}: hashes may differ.", file=sys.stderr)
    return problems


def _environment() -> dict[str, str]:
    """What may change the last bit of a result though the code is the same."""
    from importlib.metadata import version

    libraries = ("torch", "diffusers", "transformers", "numpy", "pillow")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"machine": platform.machine(), "cpu": capability, **{name: version(name) for name in libraries}}


def _hashes(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of the source checkpoints first: where one of them differs, so do all runs that start from it."""
    checkpoints = {}
    for model in dict.fromkeys(RUNS[name].model for name in names):
        checkpoints[model] = make(folder / f"{model}.safetensors", **CHECKPOINTS[model])
        yield f"checkpoint {model}", _digest({"": checkpoints[model]})
    _write_images(folder)
    for name in names:
        run = RUNS[name]
        concepts = folder / f"{name}.json"
        concepts.write_text(json.dumps(_concepts(run)), encoding="utf-8")
        models = folder / name
        _create(models, run, checkpoints[run.model])
        _train(models, run.settings, concepts)
        yield name, _digest(_results(models))
        if run.stop_at:
            models = folder / f"{name}-resumed"
            _create(models, run, checkpoints[run.model])
            stopped = {"max_train_steps": run.stop_at, "save_state_after": True, "save_lora_after": False}
            _train(models, {**run.settings, **stopped}, concepts)
            whole = {"max_train_steps": 0, "save_state_after": False, "save_lora_after": True}
            _train(models, {**run.settings, **whole}, concepts, "--resume")
            yield name + RESUMED, _digest(_results(models))


def _concepts(run: Run) -> list[dict[str, Any]]:
    concept = {
        "instance_data_dir": "instance", "class_data_dir": "", "instance_token": "zwx", "class_token": "toy",
        "instance_prompt": "[filewords]", "class_prompt": "[filewords]", "n_save_sample": 0,
    }  # fmt: skip
    return [{**concept, **changed} for changed in (run.concept, *run.more_concepts)]


def _create(models: Path, run: Run, checkpoint: Path) -> None:
    _command("create", NAME, "--source", str(checkpoint), "--models-dir", str(models), *run.create)


def _train(models: Path, settings: Mapping[str, Any], concepts: Path, *more: str) -> None:
    values = [f"{key}={value}" for key, value in {**BASE, **settings}.items()]
    _command("train", NAME, "--models-dir", str(models), "--concepts", str(concepts), *more, "--set", *values)


_output = io.StringIO()  # one for all commands: loggers keep the stream they were made with


def _command(*words: str) -> None:
    begun = _output.tell()
    with contextlib.redirect_stdout(_output), contextlib.redirect_stderr(_output):
        code = command_line(list(words))
    if code:
        raise SystemExit(f"{_output.getvalue()[begun:]}\nexit code {code} of: {' '.join(words)}")


def _results(models: Path) -> dict[str, Path]:
    """All files of weights that are the result of a run, by a prefix for the keys in them."""
    model = models / "dreambooth" / NAME
    files = {
        f"{path.parent.name}/{path.stem if path.parent.name == 'embeddings' else ''}": path
        for pattern in ("working/*", "embeddings")
        for path in sorted(model.glob(f"{pattern}/*.safetensors"))
    }
    for kind in ("Lora", "Stable-diffusion"):
        found = list((models / kind).glob("**/*.safetensors"))
        if len(found) > 1:
            raise SystemExit(f"Expected one file in {kind}, found {len(found)}: {', '.join(p.name for p in found)}")
        files |= {f"{kind}/": path for path in found}
    return files


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for prefix, path in sorted(files.items()):
        with safe_open(str(path), framework="pt") as file:
            for key in sorted(file.keys()):
                tensor = file.get_tensor(key)
                digest.update(f"{prefix}{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_images(folder: Path) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
