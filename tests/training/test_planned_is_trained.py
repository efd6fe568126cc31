"""Training uses exactly what the plan lists: two epochs are recorded at the models' inputs, and compared."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth import actions
from dreambooth.dataset.plan import Batch, Example, Plan
from dreambooth.dataset.table import table
from dreambooth.interop.input_kind import recognize_input
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, ModelFolder
from tests.interop import kohya_case
from tests.training.conftest import SMALL

EPOCHS, BATCH = 2, 2
VARIED = {"shuffle_tags": True, "keep_tokens": 1, "hflip": True, "bucket_step": 16}
# The unet is shown the latents themselves nearly without noise, so that they can be recognised.
BARELY_NOISED = {"min_timestep": 0, "max_timestep": 1}


def blobs(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """An image that differs from all others, also when scaled down."""
    return Image.frombytes("RGB", (5, 5), rng.randbytes(75)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def concept(tmp_path: Path) -> Concept:
    """Images of four shapes, all different, with two repeats each; fewer class images."""
    rng = random.Random(0)
    for kind, sizes in (("toys", [(80, 80), (112, 72), (72, 112), (90, 90), (130, 84)]), ("class", [(100, 100)] * 3)):
        (tmp_path / kind).mkdir()
        for number, size in enumerate(sizes):
            blobs(rng, size).save(tmp_path / kind / f"{number}.png")
            tags = rng.sample(["soft light", "grey floor", "from above", "close", "on a table", "dark"], 4)
            (tmp_path / kind / f"{number}.txt").write_text(", ".join(["toy", *tags]))
    return Concept(
        instance_data_dir=str(tmp_path / "toys"), class_data_dir=str(tmp_path / "class"),
        instance_token="zwx", class_token="toy", num_repeats=2,
    )  # fmt: skip


class Recorder:
    """What the models of a run were really given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded: list[tuple[torch.Tensor, torch.Tensor]] = []  # pixels (3, H, W), latents (4, H/8, W/8)
        self.read: list[tuple[torch.Tensor, torch.Tensor]] = []  # token ids (B, 77), states (B, 77, D)
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []  # latents (B, 4, h, w), states (B, 77, D)
        encode, read, predict = AutoencoderKL.encode, CLIPTextModel.forward, UNet2DConditionModel.forward

        def encoding(vae: Any, pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            given = encode(vae, pixels, *args, **kwargs)
            self.encoded.append((pixels[0].clone(), given.latent_dist.mean[0] * vae.config.scaling_factor))
            return given

        def reading(encoder: Any, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            states = read(encoder, ids, *args, **kwargs)
            self.read.append((ids.clone(), states[0].detach()))
            return states

        def predicting(unet: Any, noisy: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
            assert not t.any()
            self.steps.append((noisy.clone(), kwargs["encoder_hidden_states"].detach()))
            return predict(unet, noisy, t, **kwargs)

        monkeypatch.setattr(AutoencoderKL, "encode", encoding)
        monkeypatch.setattr(CLIPTextModel, "forward", reading)
        monkeypatch.setattr(UNet2DConditionModel, "forward", predicting)

    def pixels_of(self, noisy: torch.Tensor) -> torch.Tensor:
        """The image of the given noisy latents: the one with the nearest latents of that size."""
        there = [(pixels, latents) for pixels, latents in self.encoded if latents.shape == noisy.shape]
        return min(there, key=lambda pair: float((pair[1] - noisy).abs().mean()))[0]


def cut_out(example: Example) -> torch.Tensor:
    """The planned crop, cut from the resized image: (3, H, W) in [-1, 1]."""
    crop = example.crop
    with Image.open(example.path) as image:
        whole = image.convert("RGB").resize((crop.resized_w, crop.resized_h), Image.Resampling.LANCZOS)
    part = whole.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    if example.flipped:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = torch.tensor(list(part.tobytes()), dtype=torch.float32)
    return values.view(crop.height, crop.width, 3).permute(2, 0, 1) / 127.5 - 1


def recorded(
    mini: ModelFolder, concepts: Sequence[Concept], settings: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[Plan, list[Batch], Counter[str]]:
    """A recorded run: its plan, all of its batches, and how often each path was used."""
    settings = {"num_train_epochs": EPOCHS, "train_batch_size": BATCH, "seed": 5, **BARELY_NOISED, **settings}
    without_samples = [dataclasses.replace(concept, n_save_sample=0) for concept in concepts]
    config = actions.configure(mini, {**SMALL, **settings}, without_samples)
    checked, recorder = preflight(mini, config), Recorder(monkeypatch)
    actions.train(mini, config)
    planned: list[Batch] = [
        batch for epoch in range(EPOCHS) for batch in checked.plan.epoch(5, epoch, settings["train_batch_size"])
    ]
    assert len(recorder.steps) == len(recorder.read) == len(planned) == checked.steps
    tokenizer = CLIPTokenizer.from_pretrained(mini.working / "tokenizer")
    shown: Counter[str] = Counter()
    for batch, (noisy, states_seen), (ids, states) in zip(planned, recorder.steps, recorder.read, strict=True):
        examples = (*batch.instances, *batch.classes)
        assert torch.equal(states_seen, states)
        assert len(noisy) == len(ids) == len(examples)
        for example, row, tokens in zip(examples, noisy, ids, strict=True):
            expected = tokenizer(example.caption, padding="max_length", max_length=77)["input_ids"]
            assert tokens.tolist() == expected
            assert tuple(row.shape[1:]) == (example.bucket[1] // 8, example.bucket[0] // 8)
            assert (recorder.pixels_of(row) - cut_out(example)).abs().mean() < 0.01
            shown[str(example.path)] += 1
    return checked.plan, planned, shown


def test_two_epochs_are_the_planned_ones(mini: ModelFolder, concept: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, planned, shown = recorded(mini, [concept], VARIED, monkeypatch)
    rows = table(plan)
    instances = [row for row in rows if row["kind"] == "instance"]
    assert {row["path"]: shown[row["path"]] for row in instances} == {
        row["path"]: EPOCHS * row["repeats"] for row in instances
    }
    assert sum(shown[row["path"]] for row in instances) == EPOCHS * 10
    assert sum(shown[path] for path in {row["path"] for row in rows if row["kind"] == "class"}) == EPOCHS * 10
    assert len({tuple(row["bucket"]) for row in instances}) >= 3
    # Random variations took place: tags in other orders, images flipped and not.
    every = [example for batch in planned for example in batch.instances]
    assert len({example.caption for example in every}) > len(instances)
    assert {example.flipped for example in every} == {True, False}


def test_an_imported_dataset_is_trained_as_planned(
    mini: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kohya's buckets, repeats, captions and regularization images, as in test_kohya_rule, in real batches."""
    folder = kohya_case.make(tmp_path / "MikamiYua")
    rng = random.Random(0)
    for path in sorted(folder.rglob("*.png")):  # of one color each, which would hide the crop
        with Image.open(path) as image:
            blobs(rng, image.size).save(path, compress_level=1)
    (folder / "dataset.toml").write_text(
        kohya_case.toml(
            resolution=64, min_bucket_reso=32, max_bucket_reso=128, bucket_reso_steps=16, batch_size=4
        ).replace("num_repeats = 20", "num_repeats = 2")
    )
    found = recognize_input(folder / "dataset.toml")
    plan, planned, shown = recorded(mini, found.concepts, found.settings, monkeypatch)
    rows = table(plan)
    assert {row["path"]: EPOCHS * row["repeats"] for row in rows} == shown
    assert sum(shown.values()) == EPOCHS * 40, "as many regularization images as others, as kohya balances them"
    assert len({tuple(row["bucket"]) for row in rows}) >= 5
    captions = {e.caption for batch in planned for e in batch.instances if not e.is_class}
    assert all(caption.startswith("sls, ") for caption in captions) and len(captions) > 10
    assert {e.caption for batch in planned for e in batch.instances if e.is_class} == {"1girl"}
