"""What varies each time an image is used, and what does not."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth.captions.tags import split_tags
from dreambooth.dataset.pixels import load_mask, load_pixels
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.table import table
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.settings import Concept, Settings

FIXED = Settings(resolution=128, bucket_step=32, shuffle_tags=False)
TAGS = "sks dog, red hat, (soft, warm:1.2), grass, sky"


def folder_of(folder: Path, sizes: list[tuple[int, int]], caption: str = TAGS) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.linear_gradient("L").rotate(90).resize(size).convert("RGB").save(folder / f"{number}.png")
        # Different content: each image has random numbers of its own.
        with (folder / f"{number}.png").open("ab") as file:
            file.write(bytes([number]))
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture
def concept(tmp_path: Path) -> Concept:
    return Concept(instance_data_dir=str(folder_of(tmp_path / "a", [(160, 160)] * 6 + [(200, 130), (60, 100)])))


def shown(plan: Plan, epochs: int = 1, seed: int = 0) -> list:
    return [
        (e.path.name, e.caption, e.flipped, e.bucket)
        for epoch in range(epochs)
        for batch in plan.epoch(seed, epoch, 2)
        for e in batch.instances
    ]


@pytest.mark.parametrize(
    ("change", "under"),
    [
        ({"shuffle_tags": True}, {}),
        ({"keep_tokens": 3}, {"shuffle_tags": True}),
        ({"tag_dropout": 0.5}, {}),
        ({"caption_dropout": 0.5}, {}),
        ({"hflip": True}, {}),
        ({"bucket_min_side": 128}, {}),
        ({"bucket_max_side": 128}, {}),
        ({"bucket_no_upscale": True}, {}),
    ],
    ids=lambda change: next(iter(change), ""),
)
def test_setting_changes_what_is_shown(concept: Concept, change: dict, under: dict) -> None:
    settings = dataclasses.replace(FIXED, **under)
    without = make_plan([concept], settings)
    with_it = make_plan([concept], dataclasses.replace(settings, **change))
    assert shown(with_it) != shown(without)
    assert shown(with_it, 3) == shown(with_it, 3)
    assert [name for name, *_ in sorted(shown(with_it))] == [name for name, *_ in sorted(shown(without))]


def test_tags_are_shuffled_each_time_and_the_first_stays(concept: Concept) -> None:
    plan = make_plan([concept], dataclasses.replace(FIXED, shuffle_tags=True))
    captions = [caption for _, caption, *_ in shown(plan, 20)]
    assert {caption.partition(", ")[0] for caption in captions} == {"sks dog"}
    assert {tuple(sorted(split_tags(caption))) for caption in captions} == {tuple(sorted(split_tags(TAGS)))}
    assert len(set(captions)) == 24, "every order of the four others"
    assert plan.prompts_vary() and plan.prompts() == []


def test_dropout_probabilities(concept: Concept) -> None:
    settings = dataclasses.replace(FIXED, tag_dropout=0.25, caption_dropout=0.2, keep_tokens=2, hflip=True)
    captions = [caption for _, caption, *_ in shown(make_plan([concept], settings), 200)]
    used = [caption for caption in captions if caption]
    assert 1 - len(used) / len(captions) == pytest.approx(0.2, abs=0.04)
    assert all(caption.startswith("sks dog, red hat") for caption in used)
    assert sum(len(split_tags(c)) - 2 for c in used) / (3 * len(used)) == pytest.approx(0.75, abs=0.04)
    flips = [flipped for _, _, flipped, _ in shown(make_plan([concept], settings), 200)]
    assert sum(flips) / len(flips) == pytest.approx(0.5, abs=0.05)


def test_each_variation_has_its_own_random_numbers(concept: Concept) -> None:
    alone = make_plan([concept], dataclasses.replace(FIXED, hflip=True))
    both = make_plan([concept], dataclasses.replace(FIXED, hflip=True, shuffle_tags=True, caption_dropout=0.5))
    assert [row[2] for row in shown(alone, 3)] == [row[2] for row in shown(both, 3)]


def test_sentences_stay_as_they_are() -> None:
    variation = Variation(shuffle_tags=True)
    for caption in ("a sks dog runs", "a sks dog, running", "", "a sks dog (small, brown, wet)"):
        assert not variation.changes(caption)


@pytest.mark.parametrize(
    ("caption", "tags"),
    [
        ("a, b , ,c", ["a", "b", "c"]),
        ("(a, b:1.2), [c, d], e", ["(a, b:1.2)", "[c, d]", "e"]),
        (r"yua_\(x, y\), b", [r"yua_\(x", r"y\)", "b"]),
        ("(a, b, c", ["(a", "b", "c"]),
        ("", []),
    ],
)
def test_tags(caption: str, tags: list[str]) -> None:
    assert split_tags(caption) == tags


def test_a_flipped_image_has_a_flipped_mask(tmp_path: Path) -> None:
    image, mask = Image.new("RGB", (64, 64), "black"), Image.new("L", (64, 64), 0)
    image.paste("white", (0, 0, 16, 64))
    mask.paste(255, (0, 0, 16, 64))
    image.save(tmp_path / "a.png")
    mask.save(tmp_path / "a_mask.png")
    settings = Settings(resolution=64, bucket_step=64, hflip=True)
    plain, mirrored = make_plan([Concept(instance_data_dir=str(tmp_path))], settings).images()
    assert mirrored.flipped and not plain.flipped
    for load in (load_pixels, load_mask):
        assert torch.equal(load(mirrored), load(plain).flip(2))
        assert not torch.equal(load(mirrored), load(plain))


def test_repeats(tmp_path: Path) -> None:
    """Each image is used exactly this often, whatever the batch size, each time with random numbers of its own."""
    often = Concept(instance_data_dir=str(folder_of(tmp_path / "a", [(128, 128)] * 2 + [(200, 100)])), num_repeats=3)
    once = Concept(instance_data_dir=str(folder_of(tmp_path / "b", [(128, 128)] * 5)))
    plan = make_plan([often, once], dataclasses.replace(FIXED, shuffle_tags=True))
    for batch_size in (1, 2, 7):
        batches = plan.epoch(0, 0, batch_size)
        assert len(batches) == plan.steps_per_epoch(batch_size)
        counts = Counter((e.concept, e.path.name) for batch in batches for e in batch.instances)
        assert set(counts.values()) == {1, 3} and all(n == (3 if c == 0 else 1) for (c, _), n in counts.items())
        assert all(len({e.bucket for e in batch.instances}) == 1 for batch in batches)
    captions = {(e.path, e.caption) for epoch in range(2) for b in plan.epoch(0, epoch, 1) for e in b.instances}
    assert len(captions) > 14, "the times of an epoch differ"
    assert table(plan)[0]["repeats"] == 3
    assert plan.fingerprint() != make_plan([once], FIXED).fingerprint()


def test_a_concept_rests_after_its_maximum(tmp_path: Path) -> None:
    short = Concept(instance_data_dir=str(folder_of(tmp_path / "a", [(128, 128)] * 3)), max_steps=7, num_repeats=1)
    long = Concept(instance_data_dir=str(folder_of(tmp_path / "b", [(128, 128)] * 2)), max_steps=-1)
    plan = make_plan([short, long], FIXED)
    per_epoch = [Counter(e.concept for batch in plan.epoch(0, epoch, 1) for e in batch.instances) for epoch in range(4)]
    assert per_epoch == [{0: 3, 1: 2}, {0: 3, 1: 2}, {0: 1, 1: 2}, {1: 2}]
    assert plan.epoch_lengths(4, 1) == [5, 5, 3, 2] and plan.epoch_lengths(4, 2) == [3, 3, 2, 1]


def test_small_images_are_not_upscaled(tmp_path: Path) -> None:
    sizes = [(300, 300), (100, 70), (130, 128), (40, 200), (127, 640)]
    folder = folder_of(tmp_path / "a", sizes)
    settings = dataclasses.replace(FIXED, bucket_no_upscale=True)
    plan = make_plan([Concept(instance_data_dir=str(folder))], settings)
    for example, size in zip(plan.examples, sizes, strict=True):
        crop = example.crop
        assert crop.resized_w <= size[0] and crop.resized_h <= size[1]
        assert crop.width % 32 == crop.height % 32 == 0 and crop.width * crop.height <= 128 * 128
        assert max(example.bucket) <= 2 * min(example.bucket)
    assert plan.examples[1].bucket == (96, 64) and plan.examples[3].bucket == (32, 64)
    assert not any("enlarged" in warning for warning in plan.warnings)

    folder_of(tmp_path / "b", [(20, 90), (300, 300), (90, 31)])
    plan = make_plan([Concept(instance_data_dir=str(tmp_path / "b"))], settings)
    left_out = [note for note in plan.issues if note.left_out]
    assert [(note.path.name, note.kind, note.text[:8]) for note in left_out] == [
        ("0.png", "too-small", "is 20x90"),
        ("2.png", "too-small", "is 90x31"),
    ]
    assert [example.path.name for example in plan.examples] == ["1.png"]
    folder_of(tmp_path / "c", [(20, 90)])
    with pytest.raises(UserError, match=r"no usable image among 1 .*0\.png: is 20x90.*bucket_no_upscale"):
        make_plan([Concept(instance_data_dir=str(tmp_path / "c"))], settings)


def test_bounds_of_buckets(concept: Concept) -> None:
    def sides(**settings: int) -> list[int]:
        plan = make_plan([concept], dataclasses.replace(FIXED, **settings))
        return sorted(set(itertools.chain.from_iterable(example.bucket for example in plan.examples)))

    assert sides()[0] < 128 < sides()[-1]
    assert sides(bucket_min_side=128) == sides(bucket_max_side=128) == [128]
    with pytest.raises(UserError) as caught:
        make_plan([concept], dataclasses.replace(FIXED, bucket_min_side=192, bucket_max_side=64))
    assert [p.partition(":")[0] for p in caught.value.problems] == ["bucket_min_side", "bucket_max_side"]


def test_a_resolution_between_two_steps_is_said(concept: Concept) -> None:
    warning, *_ = make_plan([concept], dataclasses.replace(FIXED, resolution=130)).warnings
    assert warning.startswith("resolution: 130") and "128x128" in warning and "Set 128 or 160" in warning


def test_class_images_without_a_prompt_are_refused(concept: Concept, tmp_path: Path) -> None:
    classes = folder_of(tmp_path / "classes", [(128, 128)] * 2, caption=" ")
    with pytest.raises(UserError, match=r"Concept 1: 2 class images without a prompt .*Enter class_prompt"):
        make_plan([dataclasses.replace(concept, class_data_dir=str(classes))], FIXED)
