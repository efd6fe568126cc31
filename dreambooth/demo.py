"""Demo on an embedded model: create, train a LoRA, sample, generate a checkpoint, and evaluate the result.

The images are evaluated by the classifier in dreambooth/embedded, which is independent of the trained model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dreambooth import actions, embedded
from dreambooth.embedded.checker import COLORS, KINDS, Checker
from dreambooth.errors import UserError
from dreambooth.images.decoding import open_image
from dreambooth.images.listing import find_images
from dreambooth.jobs import Events
from dreambooth.paths import clean_path
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Concept, Folders, ModelFolder, read_concepts
from dreambooth.terminal import ProgressBar
from dreambooth.text import count

NAME = "demo"
SAMPLES = 40  # images of the subject, and as many of other things
CLASS_IMAGES = 64
STEPS, CFG = 20, 4.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments().parse_args(argv)
    bar = ProgressBar()
    try:
        outcome = Demo(args.family, clean_path(args.out), clean_path(args.concepts), args.token, bar).run()
    except UserError as error:
        bar.line(f"dreambooth: {error}")
        return 1
    except KeyboardInterrupt:
        bar.line("Canceled.")
        return 130
    print(json.dumps(outcome))
    return 0


class Demo:
    """One run of the demo. All its files are written to ``out``."""

    def __init__(self, family: str, out: Path, concepts: Path, token: str, bar: ProgressBar) -> None:
        self.embedded, self.out, self.bar = embedded.MODELS[family], out, bar
        self.folders = Folders(out / "models")
        self.model = ModelFolder(self.folders, NAME)
        self.concept = _concept(concepts, token, out)
        self.token, self.checker = self.concept.instance_token, Checker.load()
        self.references = [open_image(path) for path in find_images(Path(self.concept.instance_data_dir))]

    def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        threads = torch.get_num_threads()
        self._log(f"Using {count(threads, 'CPU thread')}. Set OMP_NUM_THREADS to change the number.")
        self._log("1/5  Create a trainable model from the embedded checkpoint")
        actions.create(self.folders, NAME, self.embedded.checkpoint, replace=True)
        self._log(f"2/5  Generate {2 * SAMPLES} images before training")
        before = self._generate("before")
        self._log(f"3/5  Generate {CLASS_IMAGES} class images for prior preservation")
        self._generate_class_images()
        self._log("4/5  Train a LoRA")
        trained = self._train()
        lora = next(path for path in trained.files if path.parent == self.folders.loras)
        self._log("5/5  Generate the same images after training, and a checkpoint with the LoRA merged in")
        after = self._generate("after", lora)
        checkpoint, verification = actions.generate_checkpoint(self.model, loras=[lora])
        self.bar.line(f"{checkpoint}: {verification.summary()}")
        sheet = self._sheet(before, after)
        subject_before, prior_before = self._rates(before)
        subject_after, prior_after = self._rates(after)
        self._log(
            f"Subject prompts that show the subject: {subject_before:.0%} before, {subject_after:.0%} after training. "
            f"Other prompts with a correct image: {prior_before:.0%} before, {prior_after:.0%} after. See {sheet}"
        )
        return {
            "lora": str(lora),
            "checkpoint": str(checkpoint),
            "samples": [str(path) for path in after],
            "sheet": str(sheet),
            "subject_before": subject_before,
            "subject_after": subject_after,
            "prior_before": prior_before,
            "prior_after": prior_after,
            "seconds_per_step": round(trained.seconds_per_step, 5),
            "threads": threads,
            "steps": trained.steps,
            "seconds": round(time.perf_counter() - started, 1),
        }

    # -- images -----------------------------------------------------------------------------------------------

    def _generate(self, when: str, lora: Path | None = None) -> list[Path]:
        requests = [*self._subject_requests(), *self._prior_requests()]
        loras = [lora] if lora else []
        return actions.sample(self.model, requests, self.out / when, loras=loras, batch_size=8, progress=self.bar.show)

    def _subject_requests(self) -> list[SampleRequest]:
        name = _a(f"{self.token} {self.concept.class_token}")
        prompts = [name, f"a photo of {name}", *(f"{name} on {_a(color)} background" for color in COLORS)]
        return [_request(prompts[i % len(prompts)], 1000 + i) for i in range(SAMPLES)]

    def _prior_requests(self) -> list[SampleRequest]:
        """Half other nouns, half the class: these must look as before, and must not show the subject."""
        half = SAMPLES // 2
        nouns = [_request(plain(*other), 2000 + i) for i, other in enumerate(others(half))]
        toys = [
            _request(f"{_a(self.concept.class_token)} on {_a(COLORS[i % 8])} background", 3000 + i) for i in range(half)
        ]
        return nouns + toys

    def _generate_class_images(self) -> None:
        """Class images: the class itself, and other things than those in the evaluation prompts."""
        folder, kind = Path(self.concept.class_data_dir), self.concept.class_token
        shutil.rmtree(folder, ignore_errors=True)
        half = CLASS_IMAGES // 2
        toys = [_a(kind), *(f"{_a(kind)} on {_a(color)} background" for color in COLORS)]
        training_nouns = [other for other in others(2 * half, start=3) if other not in others(SAMPLES // 2)][:half]
        prompts = [toys[i % len(toys)] for i in range(half)] + [plain(*other) for other in training_nouns]
        requests = [_request(prompt, 5000 + i) for i, prompt in enumerate(prompts)]
        paths = actions.sample(self.model, requests, folder, batch_size=8, progress=self.bar.show)
        for path, request in zip(paths, requests, strict=True):
            path.with_suffix(".txt").write_text(request.prompt, encoding="utf-8")

    def _rates(self, paths: Sequence[Path]) -> tuple[float, float]:
        """Fraction of subject prompts that show the subject, and of other prompts that give a correct image."""
        images = [Image.open(path).convert("RGB") for path in paths]
        subject = self.checker.is_subject(images, self.references)
        nouns = self.checker.matches_prompts(images[SAMPLES : SAMPLES + SAMPLES // 2], others(SAMPLES // 2))
        toys = [
            attributes.kind == "toy" and not is_subject
            for attributes, is_subject in zip(
                self.checker.classify(images[-(SAMPLES // 2) :]), subject[-(SAMPLES // 2) :], strict=True
            )
        ]
        correct = [*nouns, *toys]
        return round(sum(subject[:SAMPLES]) / SAMPLES, 4), round(sum(correct) / len(correct), 4)

    def _sheet(self, before: Sequence[Path], after: Sequence[Path]) -> Path:
        """Contact sheet: the training images, then the same prompts and seeds before and after training."""
        rows = [self.references[:6]]
        for start in (0, SAMPLES, 2 * SAMPLES - SAMPLES // 2):
            rows += [[Image.open(p) for p in paths[start : start + 6]] for paths in (before, after)]
        sheet = Image.new("RGB", (6 * 132 + 4, len(rows) * 132 + 4), (96, 96, 96))
        for y, row in enumerate(rows):
            for x, image in enumerate(row):
                sheet.paste(image, (x * 132 + 4, y * 132 + 4))
        path = self.out / "demo.png"
        sheet.save(path)
        return path

    # -- training ---------------------------------------------------------------------------------------------

    def _train(self) -> Any:
        # The captions are complete: without a class token, nothing is added to those of other nouns.
        concept = dataclasses.replace(self.concept, class_token="")
        config = actions.configure(self.model, self.embedded.settings, [concept])
        return actions.train(self.model, config, events=Events(self.model.logging, self.bar.listen))

    def _log(self, text: str) -> None:
        self.bar.line(text)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dreambooth demo", description="Train and evaluate an embedded model.")
    parser.add_argument("--family", choices=embedded.MODELS, default="sd",
                        help="sd (Stable Diffusion 1.x) or zimage (Z-Image), default: %(default)s")  # fmt: skip
    parser.add_argument("--out", default="demo-output", metavar="DIR",
                        help="folder for all results (default: %(default)s)")  # fmt: skip
    parser.add_argument("--concepts", default=str(embedded.CONCEPTS), metavar="FILE.json",
                        help="concepts file of another subject")  # fmt: skip
    parser.add_argument("--token", default="", help="another instance token for the subject")
    return parser


def _concept(path: Path, token: str, out: Path) -> Concept:
    """The concept to train; with another token, a copy of its images whose captions use that token."""
    concepts, _ = read_concepts(path)
    concept = dataclasses.replace(concepts[0], class_data_dir=str(out / "class_images"), class_prompt="[filewords]")
    if not token or token == concept.instance_token:
        return concept
    copies = out / "images"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(concept.instance_data_dir, copies)
    for caption in copies.glob("*.txt"):
        caption.write_text(caption.read_text(encoding="utf-8").replace(concept.instance_token, token), encoding="utf-8")
    return dataclasses.replace(
        concept,
        instance_data_dir=str(copies),
        instance_token=token,
        save_sample_prompt=concept.save_sample_prompt.replace(concept.instance_token, token),
    )


def others(n: int, start: int = 0) -> list[tuple[str, str, str]]:
    """``n`` different (noun, color, background), spread evenly over all of them from index ``start`` on."""
    triples = [(noun, c, b) for noun in KINDS if noun != "toy" for c in COLORS for b in COLORS if c != b]
    return [triples[start + i * (len(triples) - start) // n] for i in range(n)]


def plain(noun: str, color: str, background: str) -> str:
    return f"{_a(color)} {noun} on {_a(background)} background"


def _request(prompt: str, seed: int) -> SampleRequest:
    return SampleRequest(prompt, seed=seed, steps=STEPS, cfg=CFG, width=128, height=128)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


if __name__ == "__main__":
    sys.exit(main())
