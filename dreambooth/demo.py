"""The whole job on the embedded model: create, train a LoRA, sample, generate a checkpoint, and look at the outcome.

The pictures are read by the checker in dreambooth/embedded, a network of its own that never sees the model.
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
from dreambooth.jobs import Controls, Events
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Concept, Folders, ModelFolder, read_concepts
from dreambooth.terminal import ProgressBar

NAME = "demo"
SAMPLES = 40  # of the subject, and as many of everything else
PRIOR_PICTURES = 64
STEPS, CFG = 20, 4.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments().parse_args(argv)
    bar = ProgressBar()
    try:
        outcome = Demo(Path(args.out), Path(args.concepts), args.token, bar).run()
    except UserError as error:
        bar.line(f"dreambooth: {error}")
        return 1
    except KeyboardInterrupt:
        bar.line("Cancelled.")
        return 130
    print(json.dumps(outcome))
    return 0


class Demo:
    """One run of the demo; everything it makes lies in ``out``."""

    def __init__(self, out: Path, concepts: Path, token: str, bar: ProgressBar) -> None:
        self.out, self.bar = out, bar
        self.folders = Folders(out / "models")
        self.model = ModelFolder(self.folders, NAME)
        self.concept = _concept(concepts, token, out)
        self.token, self.checker = self.concept.instance_token, Checker.load()
        self.references = [open_image(path) for path in find_images(Path(self.concept.instance_data_dir))]

    def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        threads = torch.get_num_threads()
        self._say(f"{threads} CPU {'thread' if threads == 1 else 'threads'}; set OMP_NUM_THREADS to change it.")
        self._say("1/6  Create: the embedded checkpoint becomes a model that can be trained")
        actions.create(self.folders, NAME, embedded.CHECKPOINT, replace=True)
        self._say(f"2/6  What it draws before: {2 * SAMPLES} pictures")
        before = self._draw("before")
        self._say(
            f"3/6  {PRIOR_PICTURES} pictures that the model itself draws, to keep it from forgetting what it knows"
        )
        self._draw_prior_pictures()
        self._say("4/6  Train a LoRA")
        trained = self._train()
        lora = next(path for path in trained.files if path.parent == self.folders.loras)
        self._say("5/6  What it draws now, and the checkpoint with the LoRA merged in")
        after = self._draw("after", lora)
        checkpoint, verification = actions.generate_checkpoint(self.model, loras=[lora])
        self.bar.line(f"{checkpoint}: {verification.summary()}")
        self._say("6/6  The speed of a step beside a bare torch loop over the same modules")
        ours, bare = self._measure(trained.config)
        sheet = self._sheet(before, after)
        subject_before, prior_before = self._rates(before)
        subject_after, prior_after = self._rates(after)
        self._say(
            f"Subject drawn when asked for: {subject_before:.0%} before, {subject_after:.0%} after. "
            f"Everything else still right: {prior_before:.0%} before, {prior_after:.0%} after. See {sheet}"
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
            "seconds_per_step": round(ours, 5),
            "bare_seconds_per_step": round(bare, 5),
            "training_seconds_per_step": round(trained.seconds_per_step, 5),
            "threads": threads,
            "steps": trained.steps,
            "seconds": round(time.perf_counter() - started, 1),
        }

    # -- pictures ---------------------------------------------------------------------------------------------

    def _draw(self, when: str, lora: Path | None = None) -> list[Path]:
        requests = [*self._subject_shots(), *self._prior_shots()]
        loras = [lora] if lora else []
        return actions.sample(self.model, requests, self.out / when, loras=loras, batch_size=8, progress=self.bar.show)

    def _subject_shots(self) -> list[SampleRequest]:
        name = _a(f"{self.token} {self.concept.class_token}")
        prompts = [name, f"a photo of {name}", *(f"{name} on {_a(color)} background" for color in COLORS)]
        return [_shot(prompts[i % len(prompts)], 1000 + i) for i in range(SAMPLES)]

    def _prior_shots(self) -> list[SampleRequest]:
        """Half other nouns, half the class: drawn as before, the subject must not have taken their place."""
        half = SAMPLES // 2
        nouns = [_shot(plain(*other), 2000 + i) for i, other in enumerate(others(half))]
        toys = [
            _shot(f"{_a(self.concept.class_token)} on {_a(COLORS[i % 8])} background", 3000 + i) for i in range(half)
        ]
        return nouns + toys

    def _draw_prior_pictures(self) -> None:
        """For prior preservation: the class, and other things than those that are asked for in the end."""
        folder, kind = Path(self.concept.class_data_dir), self.concept.class_token
        shutil.rmtree(folder, ignore_errors=True)
        half = PRIOR_PICTURES // 2
        toys = [_a(kind), *(f"{_a(kind)} on {_a(color)} background" for color in COLORS)]
        practice = [other for other in others(2 * half, start=3) if other not in others(SAMPLES // 2)][:half]
        prompts = [toys[i % len(toys)] for i in range(half)] + [plain(*other) for other in practice]
        requests = [_shot(prompt, 5000 + i) for i, prompt in enumerate(prompts)]
        paths = actions.sample(self.model, requests, folder, batch_size=8, progress=self.bar.show)
        for path, request in zip(paths, requests, strict=True):
            path.with_suffix(".txt").write_text(request.prompt, encoding="utf-8")

    def _rates(self, paths: Sequence[Path]) -> tuple[float, float]:
        """Share of subject prompts that show the subject; share of other prompts that are drawn right."""
        pictures = [Image.open(path).convert("RGB") for path in paths]
        shows = self.checker.is_subject(pictures, self.references)
        nouns = self.checker.matches_prompts(pictures[SAMPLES : SAMPLES + SAMPLES // 2], others(SAMPLES // 2))
        toys = [
            attributes.kind == "toy" and not taken
            for attributes, taken in zip(
                self.checker.classify(pictures[-(SAMPLES // 2) :]), shows[-(SAMPLES // 2) :], strict=True
            )
        ]
        right = [*nouns, *toys]
        return round(sum(shows[:SAMPLES]) / SAMPLES, 4), round(sum(right) / len(right), 4)

    def _sheet(self, before: Sequence[Path], after: Sequence[Path]) -> Path:
        """One picture of it all: the pictures to learn from; the same seeds before and after."""
        rows = [self.references[:6]]
        for start in (0, SAMPLES, 2 * SAMPLES - SAMPLES // 2):
            rows += [[Image.open(p) for p in paths[start : start + 6]] for paths in (before, after)]
        sheet = Image.new("RGB", (6 * 132 + 4, len(rows) * 132 + 4), (96, 96, 96))
        for y, row in enumerate(rows):
            for x, picture in enumerate(row):
                sheet.paste(picture, (x * 132 + 4, y * 132 + 4))
        path = self.out / "demo.png"
        sheet.save(path)
        return path

    # -- training ---------------------------------------------------------------------------------------------

    def _train(self) -> Any:
        # The captions say all there is to say: without a class token nothing is added to those of other things.
        concept = dataclasses.replace(self.concept, class_token="")
        config = actions.configure(self.model, embedded.SETTINGS, [concept])
        return actions.train(self.model, config, events=Events(self.model.logging, self.bar.listen))

    def _measure(self, config: Any) -> tuple[float, float]:
        """Seconds per step of our loop and of a bare one over the same modules, in turns."""
        from dreambooth.runs.preflight import preflight
        from dreambooth.training.bare import measure
        from dreambooth.training.loop import Hooks, Loop
        from dreambooth.training.session import Session

        checked = preflight(self.model, config)
        events = Events(self.out / "bench")
        session = Session(checked.context(Controls(), events))
        try:
            loop = Loop(session, Hooks(preview=lambda: None, save=lambda when: None))
            return measure(session, loop)
        finally:
            session.close()
            events.close()

    def _say(self, text: str) -> None:
        self.bar.line(text)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dreambooth demo", description="The whole job on the embedded model.")
    parser.add_argument("--out", default="demo-output", metavar="DIR", help="where everything is written")
    parser.add_argument("--concepts", default=str(embedded.CONCEPTS), metavar="FILE.json",
                        help="another subject: its pictures, captions, token")  # fmt: skip
    parser.add_argument("--token", default="", help="another token for the subject")
    return parser


def _concept(path: Path, token: str, out: Path) -> Concept:
    """The concept to teach; with another token, on copies of the pictures whose captions say that one."""
    concepts, _ = read_concepts(path)
    concept = dataclasses.replace(concepts[0], class_data_dir=str(out / "class_pictures"), class_prompt="[filewords]")
    if not token or token == concept.instance_token:
        return concept
    copies = out / "pictures"
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
    """``n`` different (noun, colour, background), spread over all of them, from the ``start``-th on."""
    triples = [(noun, c, b) for noun in KINDS if noun != "toy" for c in COLORS for b in COLORS if c != b]
    return [triples[start + i * (len(triples) - start) // n] for i in range(n)]


def plain(noun: str, color: str, background: str) -> str:
    return f"{_a(color)} {noun} on {_a(background)} background"


def _shot(prompt: str, seed: int) -> SampleRequest:
    return SampleRequest(prompt, seed=seed, steps=STEPS, cfg=CFG, width=128, height=128)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


if __name__ == "__main__":
    sys.exit(main())
