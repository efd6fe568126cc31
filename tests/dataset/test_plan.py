"""The plan is what training gets: every image once per epoch, the same order for the same seed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.table import table
from dreambooth.errors import Cancelled, UserError
from dreambooth.settings import Concept, Settings
from tests.images.odd_images import noise

SETTINGS = Settings(resolution=128, bucket_step=8)
SQUARE, WIDE, TALL = (128, 128), (160, 100), (100, 160)


def images(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}_a_dog_{number}.png")
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two concepts in three buckets; the first has square and wide class images, none tall."""
    dogs = Concept(
        instance_data_dir=str(images(tmp_path / "小狗 dogs", *[SQUARE] * 5, *[WIDE] * 3, *[TALL] * 2)),
        class_data_dir=str(images(tmp_path / "class", *[SQUARE] * 4, *[WIDE] * 2)),
        instance_prompt="[filewords]",
        class_prompt="photo, [filewords]",
        instance_token="sks",
        class_token="dog",
    )
    toys = Concept(instance_data_dir=str(images(tmp_path / "toys", *[SQUARE] * 2)), instance_prompt="a toy")
    return make_plan([dogs, toys], SETTINGS)


def test_an_epoch_has_every_image_once(plan: Plan) -> None:
    for batch_size in (1, 3, 100):
        batches = plan.epoch(seed=1, epoch=0, batch_size=batch_size)
        shown = Counter(example.path for batch in batches for example in batch.instances)
        assert shown == Counter(example.path for example in plan.examples)
        assert len(batches) == plan.steps_per_epoch(batch_size)
        for batch in batches:
            assert {example.bucket for example in batch.instances + batch.classes} == {batch.bucket}
            assert 1 <= len(batch.instances) <= batch_size
    assert [plan.steps_per_epoch(n) for n in (1, 3, 100)] == [12, 5, 3]


def test_an_epoch_is_a_function_of_seed_and_number(plan: Plan) -> None:
    def orders(*keys: tuple[int, int]) -> list[list[Path]]:
        return [[b.instances[0].path for b in plan.epoch(seed, epoch, 1)] for seed, epoch in keys]

    first, again, next_epoch, other_seed = orders((1, 7), (1, 7), (1, 8), (2, 7))
    assert first == again
    assert len({tuple(order) for order in (first, next_epoch, other_seed)}) == 3
    # Recorded: no platform and no Python version may shuffle differently.
    assert [path.name[0] for path in first] == list("817612090543")


def test_buckets_are_mixed_within_an_epoch(plan: Plan) -> None:
    buckets = [batch.bucket for epoch in range(3) for batch in plan.epoch(0, epoch, 1)]
    changes = sum(a != b for a, b in itertools.pairwise(buckets))
    assert changes > 3 * len(set(buckets))


def test_class_images_of_batches(plan: Plan) -> None:
    assert [len(plan.class_examples[key]) for key in sorted(plan.class_examples)] == [6, 4, 2]
    for batch in plan.epoch(0, 0, 4):
        assert len(batch.classes) == sum(example.concept == 0 for example in batch.instances)
        assert all(example.is_class and example.concept == 0 for example in batch.classes)


def test_class_images_are_used_equally_often(plan: Plan) -> None:
    def shown(epochs: range) -> Counter:
        return Counter(p for epoch in epochs for b in plan.epoch(3, epoch, 2) for p in b.classes)

    # 5 square instance images per epoch, 4 square class images: 4 epochs use each exactly 5 times;
    # 3 wide for 2: 6 times; 2 tall for 6, cropped to fit: 8 in all, so each once or twice.
    counts = shown(range(4))
    per_bucket = {key: {counts[e] for e in pool} for key, pool in plan.class_examples.items()}
    assert [per_bucket[key] for key in sorted(per_bucket)] == [{1, 2}, {5}, {6}]
    assert set(shown(range(2)) + shown(range(2, 4))) == set(counts)


def test_prompts_and_table(plan: Plan) -> None:
    rows = table(plan)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["kind"] for row in rows] == ["instance"] * 12 + ["class"] * 12
    assert rows[0]["caption"] == "a sks dog 0" and rows[0]["caption_from"] == "file name"
    assert rows[5]["size"] == [160, 100] and rows[5]["bucket"] == [168, 96]
    assert rows[5]["resized"] == [168, 105]
    assert rows[5]["crop"] == pytest.approx([0, 4 * 100 / 105, 160, 100 * 100 / 105])
    assert rows[10]["concept"] == 2 and rows[10]["caption"] == "a toy"
    assert {row["caption"] for row in rows[12:]} == {f"photo, a dog {n}" for n in range(6)}
    shapes = [warning for warning in plan.warnings if "no class image has the aspect ratio" in warning]
    assert len(shapes) == 1 and "of its 96x168" in shapes[0]


def test_all_problems_at_once(tmp_path: Path) -> None:
    good = images(tmp_path / "good", SQUARE, SQUARE)
    broken = images(tmp_path / "broken", SQUARE)
    (broken / "broken one.png").write_text("not an image")
    Image.effect_noise((64, 64), 50).save(broken / "截断.jpg")
    data = (broken / "截断.jpg").read_bytes()
    (broken / "截断.jpg").write_bytes(data[:-200])
    (broken / "0_a_dog_0.txt").write_bytes(b"\0\0")
    empty = tmp_path / "empty"
    empty.mkdir()
    inside = images(tmp_path / "outer" / "class", SQUARE)
    shutil.copy(inside / "0_a_dog_0.png", tmp_path / "outer")
    concepts = [
        Concept(instance_data_dir=str(good), class_data_dir=str(empty)),
        Concept(instance_data_dir=str(tmp_path / "missing")),
        Concept(instance_data_dir=""),
        Concept(instance_data_dir=str(inside.parent), class_data_dir=str(inside)),
        Concept(instance_data_dir=str(inside), class_data_dir=str(inside.parent)),
        Concept(instance_data_dir=str(good / "0_a_dog_0.png")),
        Concept(instance_data_dir="x" * 5000),
        Concept(instance_data_dir=str(broken)),
    ]
    with pytest.raises(UserError) as caught:
        make_plan(concepts, Settings(resolution=128, bucket_step=12))
    expected = [
        "bucket_step: 12",
        f"Concept 1, class_data_dir: {empty} contains no images",
        f"Concept 2, instance_data_dir: {tmp_path / 'missing'}: there is no such folder",
        "Concept 3: instance_data_dir is empty",
        f"Concept 4, class_data_dir: {inside} is inside instance_data_dir",
        f"Concept 5, class_data_dir: {inside.parent} contains instance_data_dir",
        f"Concept 6, instance_data_dir: {good / '0_a_dog_0.png'}: is a file",
        "Concept 7, instance_data_dir: xxx",
        "Concept 8, instance_data_dir: no usable image among 3 (1 left out: unreadable caption; "
        "1 left out: not readable as an image; 1 left out: truncated). "
        f"First file: {broken / '0_a_dog_0.png'}: {broken / '0_a_dog_0.txt'}: is not a text file",
    ]
    problems = caught.value.problems
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)
    with pytest.raises(UserError, match="There is no concept"):
        make_plan([], SETTINGS)


def test_warnings_name_files(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, side, colour in (("1.png", 128, "red"), ("a.png", 40, "green"), ("b.png", 128, "blue")):
        Image.new("RGB", (side, side), colour).save(folder / name)
    (folder / "b.txt").write_bytes("café".encode("cp1252"))
    (folder / "phone.HEIC").write_bytes(b"")
    plan = make_plan([Concept(instance_data_dir=str(folder), instance_prompt="[filewords]")], SETTINGS)
    left_out, small, nameless, wordless, encoding = plan.warnings
    assert left_out == f"Left out: unsupported format, convert to PNG or JPEG (1): {folder / 'phone.HEIC'}"
    assert small.startswith("Small images, upscaled") and small.endswith(str(folder / "a.png"))
    assert nameless.endswith(f"(2): {folder / '1.png'}, {folder / 'a.png'}")
    assert "empty prompt" in wordless and wordless.endswith(str(folder / "1.png"))
    assert "not UTF-8" in encoding and encoding.endswith(f"{folder / 'b.png'} (Windows-1252)")
    assert [(note.path.name, note.kind) for note in plan.issues] == [
        ("1.png", "no-caption"),
        ("1.png", "no-words"),
        ("a.png", "enlarged"),
        ("a.png", "no-caption"),
        ("b.png", "caption-encoding"),
        ("phone.HEIC", "other-format"),
    ]


def test_warnings_on_captions_masks_and_near_duplicates(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, words in enumerate(("a dog", "a sks dog", "a toy", "the SKS dog runs")):
        noise(number, (128, 128)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(words)
    (folder / "2_mask.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    noise(0, (64, 32)).save(folder / "3_mask.png")
    noise(1, (256, 256)).save(folder / "1 larger.jpg", quality=60)
    shutil.copy(folder / "0.png", folder / "0 again.png")
    concept = Concept(instance_data_dir=str(folder), instance_token="sks", class_token="dog")
    notes = make_plan([concept, concept], SETTINGS).issues
    assert [(note.path.name, note.kind, note.left_out) for note in notes] == [
        ("0 again.png", "no-caption", False),
        ("0 again.png", "token-missing", False),
        ("0.png", "token-missing", False),
        ("0.png", "duplicate", False),
        ("1 larger.jpg", "no-caption", False),
        ("1 larger.jpg", "token-missing", False),
        ("1.png", "near-duplicate", False),
        ("3.png", "mask-shape", False),
        ("2_mask.png", "mask", False),
        ("3_mask.png", "mask", False),
        ("2.png", "truncated", True),
    ]
    assert notes[2].text == '"sks" is missing from its caption and is inserted: "a sks dog".'
    assert notes[-1].text.startswith("its mask 2_mask.png is truncated")
    holding = make_plan([dataclasses.replace(concept, instance_token="sks dog")], SETTINGS)
    assert [note.path for note in holding.issues if note.kind == "class-in-token"] == [folder]


def test_progress_and_cancel(tmp_path: Path) -> None:
    concept = Concept(instance_data_dir=str(images(tmp_path / "a", *[SQUARE] * 4)))
    seen: list[tuple[int, int, str]] = []
    make_plan([concept], SETTINGS, progress=lambda *event: seen.append(event))
    assert seen == [(n, 4, "checking images") for n in (1, 2, 3, 4)]

    def cancel(done: int, total: int, what: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        make_plan([concept], SETTINGS, progress=cancel)
