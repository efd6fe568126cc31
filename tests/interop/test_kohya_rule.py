"""An imported dataset.toml gives the same buckets, repeats, steps and captions as sd-scripts.

The values in RECORDED were recorded from sd-scripts' dataset code (commit 48d368f) on the folder of kohya_case.py.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from dreambooth.dataset.class_images import balanced
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.images.bucket_rules import BucketRule
from dreambooth.images.buckets import Crop
from dreambooth.images.kohya_buckets import kohya_fit, kohya_sizes
from dreambooth.interop.input_kind import recognize_input
from dreambooth.settings import Concept, Settings, parse
from tests.interop import kohya_case

# steps per epoch; for each image: (bucket, size after resizing)
RECORDED = {
    "512": (400, [
        ((512, 512), (512, 512)), ((448, 576), (448, 597)), ((576, 448), (597, 448)), ((384, 640), (426, 640)),
        ((640, 384), (683, 384)), ((448, 576), (448, 594)), ((448, 576), (448, 598)), ((576, 448), (597, 448)),
        ((512, 512), (512, 514)), ((960, 256), (960, 256)),
        ((512, 512), (512, 512)), ((384, 640), (426, 640)), ((640, 384), (640, 427)), ((384, 640), (384, 683)),
        ((832, 256), (832, 291)),
    ]),
    "768 in batches of 2": (200, [
        ((768, 768), (768, 768)), ((640, 896), (672, 896)), ((896, 640), (896, 672)), ((640, 896), (640, 961)),
        ((1024, 576), (1024, 576)), ((640, 896), (676, 896)), ((640, 896), (672, 896)), ((896, 640), (896, 672)),
        ((768, 768), (768, 770)), ((1024, 256), (1024, 273)),
        ((768, 768), (768, 768)), ((640, 896), (640, 962)), ((896, 640), (960, 640)), ((576, 1024), (576, 1024)),
        ((1024, 384), (1097, 384)),
    ]),
    "a pair, not enlarged, in batches of 4": (100, [
        ((512, 512), (512, 512)), ((512, 704), (528, 704)), ((704, 512), (704, 528)), ((512, 768), (512, 769)),
        ((768, 448), (796, 448)), ((512, 704), (531, 704)), ((512, 704), (533, 711)), ((384, 256), (400, 300)),
        ((576, 576), (576, 578)), ((1152, 320), (1200, 320)),
        ((512, 512), (512, 512)), ((448, 768), (511, 768)), ((256, 192), (300, 200)), ((448, 768), (448, 796)),
        ((896, 320), (914, 320)),
    ]),
    "one size": (100, [
        ((448, 640), (640, 640)), ((448, 640), (480, 640)), ((448, 640), (853, 640)), ((448, 640), (448, 673)),
        ((448, 640), (1138, 640)), ((448, 640), (483, 640)), ((448, 640), (480, 640)), ((448, 640), (853, 640)),
        ((448, 640), (638, 640)), ((448, 640), (2400, 640)),
        ((448, 640), (640, 640)), ((448, 640), (448, 673)), ((448, 640), (960, 640)), ((448, 640), (448, 796)),
        ((448, 640), (1829, 640)),
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kohya_case.make(tmp_path_factory.mktemp("MikamiYua"))


def imported(folder: Path, **dataset: object) -> tuple[Plan, Settings]:
    path = folder / "dataset.toml"
    path.write_text(kohya_case.toml(**dataset))
    found = recognize_input(path)
    assert not found.unsupported
    settings = parse(Settings, found.settings)
    return make_plan(found.concepts, settings), settings


@pytest.mark.parametrize("name", RECORDED)
def test_buckets_repeats_steps_and_captions_are_kohyas(folder: Path, name: str) -> None:
    plan, settings = imported(folder, **kohya_case.DATASETS[name])
    steps, rows = RECORDED[name]
    examples = [*plan.examples, *plan.regularization]
    assert [(e.bucket, (e.crop.resized_w, e.crop.resized_h)) for e in examples] == rows
    assert [(e.repeats, e.is_class) for e in examples] == [(20, False)] * 10 + [(40, True)] * 5
    assert plan.steps_per_epoch(settings.train_batch_size) == steps
    for epoch in range(2):
        batches = plan.epoch(0, epoch, settings.train_batch_size)
        assert len(batches) == steps and not any(batch.classes for batch in batches)
        times: Counter[Path] = Counter()
        for example in (example for batch in batches for example in batch.instances):
            times[example.path] += 1
            first, *tags = example.caption.split(", ")
            if example.is_class:
                assert example.caption == "1girl"
            else:
                assert [first, *sorted(tags)] == _sorted(kohya_case.caption(int(example.path.stem)))
        assert times == Counter({example.path: example.repeats for example in examples})


def _sorted(caption: str) -> list[str]:
    first, *tags = caption.split(", ")
    return [first, *sorted(tags)]


def test_each_rule_gives_its_own_crops() -> None:
    rules = [Settings(bucket_rule=rule) for rule in ("area", "kohya", "one size")]
    wide = [BucketRule(settings).crop((1500, 400)).bucket for settings in rules]
    assert wide == [(640, 384), (960, 256), (512, 512)]
    tall = [dataclasses.replace(settings, resolution_height=768) for settings in rules]
    assert [BucketRule(settings).crop((800, 1200)).bucket for settings in tall] == [(384, 640), (512, 768), (512, 768)]


def test_bounds_of_kohyas_buckets() -> None:
    sizes = kohya_sizes(512, 512, 64)
    assert sizes == kohya_sizes(512, 512, 64, 256, 1024) and (256, 1024) in sizes and len(sizes) == 17
    with pytest.raises(UserError) as caught:
        kohya_sizes(512, 768, 64, 576, 704)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["bucket_min_side", "bucket_max_side"]
    with pytest.raises(UserError, match="too small for a bucket"):
        BucketRule(Settings(bucket_rule="kohya", bucket_no_upscale=True)).crop((600, 40))
    with pytest.raises(UserError, match="multiple of 8"):
        BucketRule(Settings(bucket_rule="one size", resolution=500))


def test_half_a_pixel_is_rounded_up() -> None:
    """As sd-scripts do; Python's round() would give the even neighbor."""
    assert kohya_fit((1025, 1024), kohya_sizes(512, 512, 64)) == Crop(513, 512, 0, 0, 512, 512)


def test_regularization_images_are_repeated_to_match_the_instance_images(folder: Path) -> None:
    plan, _ = imported(folder)
    regularization_examples = [dataclasses.replace(example, repeats=3) for example in plan.regularization]

    def repeats(n_images: int, times: int) -> list[int]:
        examples = [dataclasses.replace(example, repeats=times) for example in plan.examples[:n_images]]
        return [example.repeats for example in balanced(examples, regularization_examples)]

    assert repeats(1, 15) == [3] * 5
    assert repeats(1, 17) == [4, 4, 3, 3, 3]  # the first ones are repeated once more
    assert repeats(2, 4) == [3, 3, 3]  # the last one exceeds the number, the others are not needed
    assert balanced([], regularization_examples) == () and balanced(plan.examples, []) == ()


def test_regularization_without_instance_images_is_an_error(folder: Path) -> None:
    regularization = Concept(instance_data_dir=str(folder / "1_1girl"), regularization=True)
    with pytest.raises(UserError, match="only regularization images"):
        make_plan([regularization], Settings())
    with pytest.raises(UserError, match="5 regularization images would also be trained as the subject"):
        make_plan([Concept(instance_data_dir=str(folder)), regularization], Settings())
