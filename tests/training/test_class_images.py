"""Missing class images are generated before training: as many as configured, matched, the same each time."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter

import pytest
from PIL import Image

from dreambooth import actions
from dreambooth.captions.prompts import build_prompt, is_complete_class_prompt
from dreambooth.jobs import Controls, Events
from dreambooth.runs.preflight import preflight
from tests.training.conftest import SMALL, TAGS


@pytest.fixture
def concept(concept):
    """The usual concept, but without class images."""
    return dataclasses.replace(concept, class_data_dir="", num_class_images_per=2, class_infer_steps=1,
                               class_prompt="photo of [filewords]")  # fmt: skip


TWO_SHAPES = {**SMALL, "bucket_step": 16, "max_train_steps": 1}


def generated(model, number=0):
    return {p.name: p.read_bytes() for p in sorted((model.root / f"classifiers_{number}").glob("*.png"))}


def config_of(mini, concept, **settings):
    return actions.configure(mini, {**TWO_SHAPES, **settings}, [concept])


def test_missing_class_images_are_generated_matched_and_saved(train, mini):
    outcome = train(**TWO_SHAPES)
    assert outcome.error is None and outcome.of("step")[0]["prior_loss"] is not None
    assert [e["name"] for e in outcome.of("phase")][:2] == ["preflight", "class images"]
    assert [e["done"] for e in outcome.of("progress") if e["phase"] == "class images"] == list(range(11))
    images = generated(mini)
    assert len(images) == 10  # 2 for each of 5
    sizes, captions = Counter(), Counter()
    for path in (mini.root / "classifiers_0").glob("*.png"):
        sizes[Image.open(path).size] += 1
        captions[path.with_suffix(".txt").read_text().strip()] += 1
    assert sizes == {(64, 64): 4, (80, 48): 6}
    assert captions == {f"photo of a toy number {i}, {TAGS}": 2 for i in range(5)}
    rows = preflight(mini, mini.load()).as_dict()
    trained = Counter(row["caption"] for row in rows["table"] if row["kind"] == "class")
    assert trained == captions, "the prompt of a generated image is its training caption"
    assert not [text for text in rows["warnings"] if "shape" in text]
    again = train(**TWO_SHAPES)
    assert "class images" not in [e["name"] for e in again.of("phase")]
    assert generated(mini) == images


def test_canceled_generation_continues_later_with_the_same_images(train, mini, models_dir, created):
    train(**TWO_SHAPES)
    whole = generated(mini)
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    stopped = train(
        **TWO_SHAPES,
        on=lambda event, controls: event.get("phase") == "class images" and event["done"] == 4 and controls.cancel(),
    )
    assert stopped.of("ended")[-1]["state"] == "cancelled" and 0 < len(generated(mini)) < 10
    train(**TWO_SHAPES)
    assert generated(mini) == whole


def test_existing_class_images_count_by_their_shape(mini, concept, images):
    own = dataclasses.replace(concept, class_data_dir=str(images / "class"), num_class_images_per=1)
    checked = preflight(mini, config_of(mini, own))
    shapes = Counter((request.width, request.height) for _, request in checked.class_images)
    assert sum(shapes.values()) == 2  # 3 exist: 1 of 2 square ones, 2 of 3 wide ones
    assert all(path.parent == images / "class" for path, _ in checked.class_images)
    as_they_are = preflight(mini, config_of(mini, own, disable_class_matching=True))
    assert not as_they_are.class_images


def test_prompts_and_settings_of_a_concept_determine_the_images(mini, concept, models_dir, created):
    def generate_with(**changed):
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
        mine = dataclasses.replace(concept, **changed)
        made = actions.class_images(mini, config_of(mini, mine), controls=Controls(), events=Events())
        return [path.read_bytes() for path in made]

    start = generate_with(num_class_images_per=1)
    for changed in (
        {"class_negative_prompt": "red"},
        {"class_guidance_scale": 1.0},
        {"class_infer_steps": 2},
        {"class_prompt": "drawing of [filewords]"},
    ):
        assert generate_with(num_class_images_per=1, **changed) != start
    assert generate_with(num_class_images_per=1) == start
    assert len(generate_with(num_class_images_per=3)) == 15 and not generate_with(num_class_images_per=0)


def test_class_images_are_generated_in_batches_of_the_class_batch_size(mini, concept, monkeypatch):
    from dreambooth.sampling import generate

    sizes = []
    generate_latents = generate._generate_latents
    monkeypatch.setattr(
        generate,
        "_generate_latents",
        lambda m, denoiser, requests, *rest: (
            sizes.append(len(requests)) or generate_latents(m, denoiser, requests, *rest)
        ),
    )
    actions.class_images(mini, config_of(mini, concept, sample_batch_size=4), controls=Controls(), events=Events())
    assert max(sizes) == 4 and sum(sizes) == 10


def test_without_a_class_prompt_it_is_refused_before_anything_is_generated(mini, concept, images):
    from dreambooth.errors import UserError

    wrong = dataclasses.replace(concept, class_prompt=" ", class_data_dir=str(images / "instance" / "deeper"))
    with pytest.raises(UserError) as refused:
        preflight(mini, config_of(mini, wrong))
    assert any(text.startswith("concept 1: class_prompt (") for text in refused.value.problems)
    assert any("is inside instance_data_dir" in text for text in refused.value.problems)


@pytest.mark.parametrize("template", ["photo of [filewords]", "[filewords], photo", "a photo", "", "x [FileWords] y"])
@pytest.mark.parametrize("caption", ["a zwx toy runs", "zwx, red", "", r"a toy \(film\)"])
def test_the_prompt_of_a_generated_image_is_its_caption(template, caption):
    drawn_from = build_prompt(template, caption, "zwx", "toy", is_class=True)
    assert is_complete_class_prompt(template, drawn_from, "toy")
    assert build_prompt("[filewords]", drawn_from, "zwx", "toy", is_class=True) == drawn_from
    assert not is_complete_class_prompt("photo of [filewords]", "a toy runs", "toy")
