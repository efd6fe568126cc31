"""Comparison of our training with diffusers' own scripts, from the same weights and images: fidelity and forgetting.

    python tools/compare_with_diffusers.py DIFFUSERS/examples/dreambooth --out FOLDER
    python tools/compare_with_diffusers.py ... --modes full --seeds 1 --steps full=300 --images 40

Each run trains the embedded model on its subject, with train_dreambooth.py or train_dreambooth_lora.py, or with
`python -m dreambooth train`; with and without class images, for each seed. Images of all results are sampled by one
sampler from the same noise and evaluated by the embedded classifier: the fraction of subject prompts that show the
subject ("subject"), of other prompts that are followed ("prior"), and of class prompts that show a toy other than the
subject ("class").

The results of each run are written to FOLDER/results when it is done; runs with results of the same recipe are skipped.
The scripts need the packages in their requirements.txt; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

SCRIPTS = {"full": "train_dreambooth.py", "lora": "train_dreambooth_lora.py"}
INSTANCE_PROMPT, CLASS_PROMPT = "a zwx toy", "a toy"
CLASS_IMAGES = 64
RESOLUTION, RANK = 128, 16
SAMPLER, SAMPLER_STEPS = "DPMSolverMultistep", 10
METRICS = ("subject", "prior", "class")
LR = {"full": 2e-4, "lora": 1e-3}
STEPS = {"full": 300, "lora": 300}


@dataclass(frozen=True)
class Recipe:
    """Configuration of a run on both sides. ``lr`` is used for UNet and text encoder: the scripts have only one."""

    mode: str
    with_prior: bool
    seed: int
    lr: float
    steps: int
    batch: int
    images: int  # per metric

    @property
    def name(self) -> str:
        return f"{self.mode}_{'with' if self.with_prior else 'without'}_{self.seed}"


class Comparison:
    """Shared inputs of all runs, and the folders of their results."""

    def __init__(self, scripts: Path, out: Path) -> None:
        self.scripts, self.out = scripts, out
        self.instance, self.classes, self.results = out / "instance", out / "class", out / "results"
        self.start = _model(out / "start")

    def prepare(self) -> None:
        """Create the float32 weights that both sides train, and folders with nothing but images for the scripts."""
        from dreambooth import actions, embedded

        for folder in (self.instance, self.results):
            folder.mkdir(parents=True, exist_ok=True)
        for path in (embedded.FOLDER / "subject").glob("*.png"):
            shutil.copy(path, self.instance)
        if not self.start.exists():
            _create(self.start, embedded.CHECKPOINT)
        if self.classes.is_dir():
            return
        generated = self.out / "class_generated"
        shutil.rmtree(generated, ignore_errors=True)
        requests = [_request(CLASS_PROMPT, 5000 + i) for i in range(CLASS_IMAGES)]
        for path in actions.sample(self.start, requests, generated, batch_size=8):
            path.with_suffix(".txt").unlink()
        generated.rename(self.classes)

    def result(self, side: str, recipe: Recipe) -> dict[str, Any] | None:
        """Result of a completed run, or None."""
        path = self._result_path(side, recipe)
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return result if result.get("recipe") == dataclasses.asdict(recipe) else None

    def run(self, side: str, recipe: Recipe) -> None:
        """Train, sample, evaluate, and write the result."""
        from dreambooth.files import write_json

        folder = self.out / "runs" / f"{recipe.name}_{side}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sides = {"ours": self._train_ours, "theirs": self._train_theirs, "untouched": lambda *_: (self.start, [], 0.0)}
        model, loras, seconds = sides[side](recipe, folder)
        metrics = measure(model, loras, recipe.images, folder / "images")
        result = {"recipe": dataclasses.asdict(recipe), **metrics, "seconds_per_step": round(seconds, 4)}
        write_json(self._result_path(side, recipe), result)

    def _result_path(self, side: str, recipe: Recipe) -> Path:
        return self.results / f"{recipe.name}_{side}.json"

    # -- both trainers: the model to sample with, its LoRAs, seconds per step -----------------------------------

    def _train_ours(self, recipe: Recipe, folder: Path) -> tuple[Any, list[Path], float]:
        shutil.copytree(self.out / "start", folder / "start")
        model = _model(folder / "start")
        rates = ("learning_rate", "txt_learning_rate", "lora_learning_rate", "lora_txt_learning_rate")
        settings = {
            "use_lora": recipe.mode == "lora", "lora_unet_rank": RANK, "lora_txt_rank": RANK, "seed": recipe.seed,
            **dict.fromkeys(rates, recipe.lr), "lr_scheduler": "constant", "max_train_steps": recipe.steps,
            "num_train_epochs": recipe.steps, "train_batch_size": recipe.batch, "prior_loss_weight": 1.0,
            "mixed_precision": "no", "gradient_checkpointing": False, "resolution": RESOLUTION, "bucket_step": 32,
            "save_preview_every": 0, "save_embedding_every": 0, "save_ckpt_after": False,
        }  # fmt: skip
        concept = {
            "instance_data_dir": str(self.instance), "instance_prompt": INSTANCE_PROMPT,
            "class_data_dir": str(self.classes) if recipe.with_prior else "", "class_prompt": CLASS_PROMPT,
            "n_save_sample": 0,
        }  # fmt: skip
        (folder / "concepts.json").write_text(json.dumps([concept]), encoding="utf-8")
        command = ["-m", "dreambooth", "train", model.name, "--models-dir", str(model.folders.models), "--concepts",
                   str(folder / "concepts.json"), "--set", *(f"{k}={v}" for k, v in settings.items())]  # fmt: skip
        _python(command, folder / "log.txt")
        events = [json.loads(line) for path in model.logging.glob("run_*.jsonl") for line in path.open()]
        begun = next(e["time"] for e in events if e["kind"] == "phase" and e["name"] == "training")
        ended = max(event["time"] for event in events if event["kind"] == "step")
        loras = list(model.folders.loras.glob("*.safetensors")) if recipe.mode == "lora" else []
        return model, loras, (ended - begun) / recipe.steps

    def _train_theirs(self, recipe: Recipe, folder: Path) -> tuple[Any, list[Path], float]:
        trained = folder / "trained"
        command = [
            str(self.scripts / SCRIPTS[recipe.mode]), "--pretrained_model_name_or_path", str(self.start.working),
            "--instance_data_dir", str(self.instance), "--instance_prompt", INSTANCE_PROMPT, "--output_dir",
            str(trained), "--seed", str(recipe.seed), "--resolution", str(RESOLUTION), "--center_crop",
            "--train_text_encoder", "--train_batch_size", str(recipe.batch), "--max_train_steps", str(recipe.steps),
            "--learning_rate", str(recipe.lr), "--lr_scheduler", "constant", "--lr_warmup_steps", "0",
            "--mixed_precision", "no", "--checkpointing_steps", str(recipe.steps + 1),
        ]  # fmt: skip
        if recipe.with_prior:
            command += ["--with_prior_preservation", "--class_data_dir", str(self.classes), "--class_prompt",
                        CLASS_PROMPT, "--num_class_images", str(CLASS_IMAGES),
                        "--prior_loss_weight", "1"]  # fmt: skip
        if recipe.mode == "lora":
            command += ["--rank", str(RANK)]
        _python(command, folder / "log.txt")
        seconds = _seconds_on_bar((folder / "log.txt").read_text(encoding="utf-8"), recipe.steps) / recipe.steps
        if recipe.mode == "lora":
            return self.start, [trained / "pytorch_lora_weights.safetensors"], seconds
        model = _model(folder / "start")
        _create(model, trained)
        return model, [], seconds


def measure(model: Any, loras: list[Path], n: int, folder: Path) -> dict[str, float]:
    """Each metric as a fraction of ``n`` images: subject shown, other nouns correct, class preserved."""
    from PIL import Image

    from dreambooth import actions, embedded
    from dreambooth.demo import others, plain
    from dreambooth.embedded.checker import COLORS, Checker

    prompts = [INSTANCE_PROMPT, f"a photo of {INSTANCE_PROMPT}"]
    prompts += [f"{INSTANCE_PROMPT} on {_a(color)} background" for color in COLORS]
    nouns = others(n)
    requests = [_request(prompts[i % len(prompts)], 1000 + i) for i in range(n)]
    requests += [_request(plain(*noun), 2000 + i) for i, noun in enumerate(nouns)]
    requests += [_request(CLASS_PROMPT, 3000 + i) for i in range(n)]
    paths = actions.sample(model, requests, folder, loras=loras, batch_size=8)
    images = [Image.open(path).convert("RGB") for path in paths]
    checker = Checker.load()
    references = [Image.open(path) for path in sorted((embedded.FOLDER / "subject").glob("*.png"))]
    subject = checker.is_subject(images, references)
    kinds = [attributes.kind for attributes in checker.classify(images[2 * n :])]
    preserved = [kind == "toy" and not shown for kind, shown in zip(kinds, subject[2 * n :], strict=True)]
    outcomes = (subject[:n], checker.matches_prompts(images[n : 2 * n], nouns), preserved)
    return {name: round(sum(part) / n, 4) for name, part in zip(METRICS, outcomes, strict=True)}


# -- helpers --------------------------------------------------------------------------------------------------


def _model(models: Path) -> Any:
    from dreambooth.settings import Folders, ModelFolder

    return ModelFolder(Folders(models), "model")


def _create(model: Any, source: Path) -> None:
    """Create a float32 model from ``source`` that samples with :data:`SAMPLER`."""
    from dreambooth import actions
    from dreambooth.settings.creation import CreateOptions

    actions.create(model.folders, model.name, source, CreateOptions(precision="fp32"))
    model.save(actions.configure(model, {"scheduler": SAMPLER}))


def _request(prompt: str, seed: int) -> Any:
    from dreambooth.sampling.generate import SampleRequest

    return SampleRequest(prompt, seed=seed, steps=SAMPLER_STEPS, cfg=4.0, width=RESOLUTION, height=RESOLUTION)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _python(command: list[str], log: Path) -> None:
    """Run Python, with its output in ``log``."""
    with log.open("w", encoding="utf-8") as file:
        run = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if run.returncode:
        raise SystemExit(f"{log}: {log.read_text(encoding='utf-8')[-2000:]}")


def _seconds_on_bar(text: str, steps: int) -> float:
    """Total time in tqdm's progress bar of the steps, to the second."""
    times = re.findall(rf"\b{steps}/{steps} \[((?:\d+:)+\d+)<", text)
    return sum(int(part) * 60**n for n, part in enumerate(reversed(times[-1].split(":"))))


# -- all runs -------------------------------------------------------------------------------------------------


def main() -> None:
    args = _arguments()
    comparison = Comparison(args.scripts.resolve(), args.out.resolve())
    if args.one:
        side, recipe = json.loads(args.one)
        return comparison.run(side, Recipe(**recipe))
    comparison.prepare()
    recipes = _recipes(args)
    todo = [(side, recipe) for recipe in recipes for side in ("ours", "theirs")]
    todo.insert(0, ("untouched", _untouched(recipes)))
    todo = [job for job in todo if not comparison.result(*job)]
    with ThreadPoolExecutor(args.at_once) as pool:
        for done, (side, recipe) in enumerate(pool.map(lambda job: _in_process(args, *job), todo), 1):
            print(f"{done}/{len(todo)} {side} {recipe.name}", file=sys.stderr, flush=True)
    print(_table(comparison, recipes))
    return None


def _in_process(args: argparse.Namespace, side: str, recipe: Recipe) -> tuple[str, Recipe]:
    job = json.dumps([side, dataclasses.asdict(recipe)])
    run = subprocess.run([sys.executable, __file__, str(args.scripts), "--out", str(args.out), "--one", job],
                         capture_output=True, text=True)  # fmt: skip
    if run.returncode:
        raise SystemExit(f"{side} {recipe.name}: {run.stderr[-3000:]}")
    return side, recipe


def _recipes(args: argparse.Namespace) -> list[Recipe]:
    given = itertools.product(args.seeds, args.modes, [value == "with" for value in args.class_images])
    return [
        Recipe(mode, with_prior, seed, args.lr[mode], args.steps[mode], args.batch, args.images)
        for seed, mode, with_prior in given
    ]


def _untouched(recipes: list[Recipe]) -> Recipe:
    """The run without training."""
    return dataclasses.replace(recipes[0], mode="none", with_prior=False, seed=0, lr=0.0, steps=0)


def _table(comparison: Comparison, recipes: list[Recipe]) -> str:
    """Markdown table: one row per seed and one for their mean; ours / theirs."""
    head = ["mode", "class images", "seed", *METRICS, "s/step"]
    rows = [head, ["---"] * len(head)]
    untouched = comparison.result("untouched", _untouched(recipes)) or {}
    rows.append(["untouched", "", "", *(f"{untouched[metric]:.2f}" for metric in METRICS), ""])
    columns = (*METRICS, "seconds_per_step")
    for (mode, with_prior), group in _grouped(recipes):
        pairs = [[comparison.result(side, recipe) or {} for side in ("ours", "theirs")] for recipe in group]
        seeds = [*(str(recipe.seed) for recipe in group), "mean"]
        means = [{c: statistics.fmean(pair[i][c] for pair in pairs) for c in columns} for i in (0, 1)]
        for seed, (ours, theirs) in zip(seeds, [*pairs, means], strict=True):
            cells = [f"{ours[column]:.2f} / {theirs[column]:.2f}" for column in columns]
            rows.append([mode, "with" if with_prior else "without", seed, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _grouped(recipes: list[Recipe]) -> Any:
    def kind(recipe: Recipe) -> tuple[str, bool]:
        return recipe.mode, recipe.with_prior

    return [(key, list(group)) for key, group in itertools.groupby(sorted(recipes, key=kind), kind)]


def _arguments() -> argparse.Namespace:
    def by_mode(text: str) -> dict[str, str]:
        return dict(part.split("=") for part in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", type=Path, help="the folder examples/dreambooth of a checkout of diffusers")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--modes", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--class-images", nargs="+", default=["with", "without"], choices=["with", "without"])
    parser.add_argument("--lr", type=by_mode, default={}, help="learning rates, such as full=1e-4,lora=2e-3")
    parser.add_argument("--steps", type=by_mode, default={}, help="steps, such as full=400,lora=400")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--images", type=int, default=40, help="number of images per metric and run")
    parser.add_argument("--at-once", type=int, default=1, help="number of parallel runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.lr = {mode: float({**LR, **args.lr}[mode]) for mode in LR}
    args.steps = {mode: int({**STEPS, **args.steps}[mode]) for mode in STEPS}
    return args


if __name__ == "__main__":
    main()
