"""Our training beside diffusers' own scripts, from the same weights, pictures and figures: who learns, who forgets?

    python tools/beside_diffusers.py DIFFUSERS/examples/dreambooth --out FOLDER
    python tools/beside_diffusers.py ... --modes full --seeds 1 --steps full=300 --pictures 40

Each run trains the embedded model on its subject, with train_dreambooth.py or train_dreambooth_lora.py, or with
`python -m dreambooth train`; with class pictures and without, with each seed. What came of it is drawn by one sampler
from the same noise and read by the checker: how often the subject comes when it is asked for ("subject"), other nouns
come as they are asked for ("prior"), and the class prompt brings a toy that is not the subject ("class").

Each run's figures lie in FOLDER/results as soon as it is over; what lies there already, from the same recipe, is not
run again. The scripts need what their requirements.txt says; nothing is fetched.
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
CLASS_PICTURES = 64
RESOLUTION, RANK = 128, 16
SAMPLER, SAMPLER_STEPS = "DPMSolverMultistep", 10
FIGURES = ("subject", "prior", "class")
LR = {"full": 2e-4, "lora": 1e-3}
STEPS = {"full": 300, "lora": 300}


@dataclass(frozen=True)
class Recipe:
    """What both sides are told. ``lr`` is that of unet and text encoder alike: the scripts know one."""

    mode: str
    with_prior: bool
    seed: int
    lr: float
    steps: int
    batch: int
    pictures: int  # drawn for each figure

    @property
    def name(self) -> str:
        return f"{self.mode}_{'with' if self.with_prior else 'without'}_{self.seed}"


class Comparison:
    """What all runs start from, and where what they leave lies."""

    def __init__(self, scripts: Path, out: Path) -> None:
        self.scripts, self.out = scripts, out
        self.instance, self.classes, self.results = out / "instance", out / "class", out / "results"
        self.start = _model(out / "start")

    def prepare(self) -> None:
        """The weights in float32, as both train them; pictures alone in their folders, as the scripts want them."""
        from dreambooth import actions, embedded

        for folder in (self.instance, self.results):
            folder.mkdir(parents=True, exist_ok=True)
        for path in (embedded.FOLDER / "subject").glob("*.png"):
            shutil.copy(path, self.instance)
        if not self.start.exists():
            _create(self.start, embedded.CHECKPOINT)
        if self.classes.is_dir():
            return
        drawn = self.out / "class_drawn"
        shutil.rmtree(drawn, ignore_errors=True)
        requests = [_shot(CLASS_PROMPT, 5000 + i) for i in range(CLASS_PICTURES)]
        for path in actions.sample(self.start, requests, drawn, batch_size=8):
            path.with_suffix(".txt").unlink()
        drawn.rename(self.classes)

    def known(self, side: str, recipe: Recipe) -> dict[str, Any] | None:
        """The figures of a run that is over."""
        path = self._result(side, recipe)
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found if found.get("recipe") == dataclasses.asdict(recipe) else None

    def run(self, side: str, recipe: Recipe) -> None:
        """Train, draw, read, write the figures down."""
        from dreambooth.files import write_json

        folder = self.out / "runs" / f"{recipe.name}_{side}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sides = {"ours": self._train_ours, "theirs": self._train_theirs, "untouched": lambda *_: (self.start, [], 0.0)}
        model, loras, seconds = sides[side](recipe, folder)
        figures = _figures(model, loras, recipe.pictures, folder / "pictures")
        facts = {"recipe": dataclasses.asdict(recipe), **figures, "seconds_per_step": round(seconds, 4)}
        write_json(self._result(side, recipe), facts)

    def _result(self, side: str, recipe: Recipe) -> Path:
        return self.results / f"{recipe.name}_{side}.json"

    # -- both trainers: the model to draw with, its LoRAs, seconds per step -----------------------------------

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
                        CLASS_PROMPT, "--num_class_images", str(CLASS_PICTURES),
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


def _figures(model: Any, loras: list[Path], n: int, folder: Path) -> dict[str, float]:
    """Shares of ``n`` pictures each: the subject where it is asked for, nouns as asked for, the class as itself."""
    from PIL import Image

    from dreambooth import actions, embedded
    from dreambooth.demo import others, plain
    from dreambooth.embedded.checker import COLORS, Checker

    asked = [INSTANCE_PROMPT, f"a photo of {INSTANCE_PROMPT}"]
    asked += [f"{INSTANCE_PROMPT} on {_a(color)} background" for color in COLORS]
    nouns = others(n)
    requests = [_shot(asked[i % len(asked)], 1000 + i) for i in range(n)]
    requests += [_shot(plain(*noun), 2000 + i) for i, noun in enumerate(nouns)]
    requests += [_shot(CLASS_PROMPT, 3000 + i) for i in range(n)]
    paths = actions.sample(model, requests, folder, loras=loras, batch_size=8)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    checker = Checker.load()
    references = [Image.open(path) for path in sorted((embedded.FOLDER / "subject").glob("*.png"))]
    shows = checker.is_subject(pictures, references)
    kinds = [attributes.kind for attributes in checker.classify(pictures[2 * n :])]
    stays = [kind == "toy" and not taken for kind, taken in zip(kinds, shows[2 * n :], strict=True)]
    right = (shows[:n], checker.matches_prompts(pictures[n : 2 * n], nouns), stays)
    return {name: round(sum(part) / n, 4) for name, part in zip(FIGURES, right, strict=True)}


# -- helpers --------------------------------------------------------------------------------------------------


def _model(models: Path) -> Any:
    from dreambooth.settings import Folders, ModelFolder

    return ModelFolder(Folders(models), "model")


def _create(model: Any, source: Path) -> None:
    """``source`` in float32, drawn with :data:`SAMPLER`."""
    from dreambooth import actions
    from dreambooth.settings.creation import CreateOptions

    actions.create(model.folders, model.name, source, CreateOptions(precision="fp32"))
    model.save(actions.configure(model, {"scheduler": SAMPLER}))


def _shot(prompt: str, seed: int) -> Any:
    from dreambooth.sampling.generate import SampleRequest

    return SampleRequest(prompt, seed=seed, steps=SAMPLER_STEPS, cfg=4.0, width=RESOLUTION, height=RESOLUTION)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _python(command: list[str], log: Path) -> None:
    """Run Python with what it says in ``log``."""
    with log.open("w", encoding="utf-8") as file:
        run = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if run.returncode:
        raise SystemExit(f"{log}: {log.read_text(encoding='utf-8')[-2000:]}")


def _seconds_on_bar(text: str, steps: int) -> float:
    """What tqdm's bar of the steps shows at its end, to the second."""
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
    todo = [job for job in todo if not comparison.known(*job)]
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
    given = itertools.product(args.seeds, args.modes, [word == "with" for word in args.class_pictures])
    return [
        Recipe(mode, with_prior, seed, args.lr[mode], args.steps[mode], args.batch, args.pictures)
        for seed, mode, with_prior in given
    ]


def _untouched(recipes: list[Recipe]) -> Recipe:
    """The run that trains nothing."""
    return dataclasses.replace(recipes[0], mode="none", with_prior=False, seed=0, lr=0.0, steps=0)


def _table(comparison: Comparison, recipes: list[Recipe]) -> str:
    """Markdown: a row for each seed, and the mean over them; ours before theirs."""
    head = ["mode", "class pictures", "seed", *FIGURES, "s/step"]
    rows = [head, ["---"] * len(head)]
    untouched = comparison.known("untouched", _untouched(recipes)) or {}
    rows.append(["untouched", "", "", *(f"{untouched[figure]:.2f}" for figure in FIGURES), ""])
    columns = (*FIGURES, "seconds_per_step")
    for (mode, with_prior), group in _grouped(recipes):
        pairs = [[comparison.known(side, recipe) or {} for side in ("ours", "theirs")] for recipe in group]
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
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--modes", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--class-pictures", nargs="+", default=["with", "without"], choices=["with", "without"])
    parser.add_argument("--lr", type=by_mode, default={}, help="learning rates, such as full=1e-4,lora=2e-3")
    parser.add_argument("--steps", type=by_mode, default={}, help="steps, such as full=400,lora=400")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=40, help="drawn for each figure of each run")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.lr = {mode: float({**LR, **args.lr}[mode]) for mode in LR}
    args.steps = {mode: int({**STEPS, **args.steps}[mode]) for mode in STEPS}
    return args


if __name__ == "__main__":
    main()
