"""The dataset preview shows what a run does: its pixels, captions, steps and cache files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.captions.tags import split_tags
from dreambooth.dataset import plan as plans
from dreambooth.dataset.pixels import load_pixels
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.images.decoding import open_image
from dreambooth.models.sd.tokenizer import shipped_tokenizer
from dreambooth.models.sd.tokens import PromptEncoding, count_tokens, count_with_overflow
from dreambooth.runs import data_report as reports
from dreambooth.runs.data_report import preview_dataset
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, Settings
from dreambooth.training.inputs import LatentStore
from dreambooth.training.prompts import CachedPromptEmbedder

SMALL = Settings(resolution=64, bucket_step=16)
LONG = ", ".join(["sks dog", *(f"a tag with number {n}" for n in range(20))])


def images(folder: Path, *sizes: tuple[int, int], caption: str = "") -> Path:
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        noise = Image.effect_noise(size, 90)
        Image.merge("RGB", [noise, noise.rotate(180), noise.point(lambda value: 255 - value)]).save(
            folder / f"{number}.png"
        )
        if caption:
            (folder / f"{number}.txt").write_text(f"{caption}, number {number}")
    return folder


def test_the_crop_that_is_shown_is_cut_out_to_the_pixel(tmp_path):
    folder = images(tmp_path / "p", (333, 517), (640, 201), (64, 64), (50, 91))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((320, 200), 80).save(folder / "turned.jpg", exif=exif)
    concept = Concept(instance_data_dir=str(folder), instance_prompt="a dog")
    rows = {row["path"]: row for row in preview_dataset([concept], SMALL).pictures}
    examples = make_plan([concept], SMALL).examples
    assert len(rows) == 5 and rows[str(folder / "turned.jpg")]["size"] == [200, 320]
    for example in examples:
        row = rows[str(example.path)]
        shown = open_image(row["path"]).resize(row["bucket"], Image.Resampling.LANCZOS, box=row["crop"])
        trained = ((load_pixels(example) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        assert bytes(trained.flatten().tolist()) == shown.tobytes()
        left, top, right, bottom = row["crop"]
        share = (right - left) * (bottom - top) / (row["size"][0] * row["size"][1])
        assert share == pytest.approx(row["kept"], abs=0.01)


@pytest.mark.parametrize(
    ("prompt", "limit", "lost"),
    [
        ("a dog on a Beach", 75, ""),
        ("a dog on a Beach", 3, "a Beach"),
        ("Dog,  Incomprehensibilities ,End", 3, "comprehensibilities ,End"),  # in the middle of a word
        ("one 小狗 in   the Ärger", 4, "狗 in   the Ärger"),  # in the middle of a character
        ("one 小狗 in   the Ärger", 6, "in   the Ärger"),
        ("(a dog:1.2) far away", 4, "1.2) far away"),
        ("name_\\(film\\), far", 3, "), far"),
    ],
)
def test_the_words_that_are_cut_off(prompt, limit, lost):
    tokenizer = shipped_tokenizer()
    prompt_encoding = PromptEncoding(max_tokens=limit)
    ((tokens, said),) = count_with_overflow(tokenizer, [prompt], prompt_encoding)
    assert tokens == count_tokens(tokenizer, prompt, prompt_encoding)
    assert said == lost
    for other in ({"weighted": True}, {"strict": True}):
        other_encoding = PromptEncoding(max_tokens=limit, **other)
        ((tokens, said),) = count_with_overflow(tokenizer, [prompt], other_encoding)
        assert bool(said) == (tokens > limit) and "<|" not in said and prompt.casefold().endswith(said.casefold()[-3:])


def test_a_row_has_all_fields_of_an_image(tmp_path):
    folder = images(tmp_path / "dogs", (64, 64), (64, 64), (200, 100), caption=LONG)
    classes = images(tmp_path / "others", *[(64, 64)] * 5)
    concept = Concept(instance_data_dir=str(folder), class_data_dir=str(classes), instance_token="sks",
                      class_token="dog", num_repeats=4)  # fmt: skip
    settings = dataclasses.replace(SMALL, tag_dropout=0.1, caption_dropout=0.05, hflip=True, num_train_epochs=3)
    found = preview_dataset([concept], settings)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()
    first, *_, wide = [row for row in found.pictures if row["kind"] == "instance"]
    assert first["captions"] == [f"{LONG}, number 0"] == [first["caption"]] and first["caption_from"] == "0.txt"
    assert first["tokens"] > 75 and first["captions"][0].endswith(first["cut_off"]) and first["cut_off"]
    assert first["warning_kinds"] == ["cut-off"] and first["cut_off"] in first["warnings"][0]
    assert first["varies"] == [
        "tags shuffled after sks dog", "each other tag dropped with a probability of 10%",
        "no caption with a probability of 5%", "flipped with a probability of 50%",
    ]  # fmt: skip
    assert (first["class_partners"], first["class_partner_names"]) == (5, ["0.png", "1.png", "2.png"])
    assert wide["class_partners"] == 5 and wide["bucket"] == [80, 48]
    totals = found.totals
    assert (totals["pictures"], totals["class_pictures"], totals["showings_per_epoch"]) == (3, 5, 12)
    assert totals["steps"] == 36 and totals["notes"] == {"cut-off": 3, "no-caption": 5}
    assert [bucket["pictures"] for bucket in totals["buckets"]] == [2, 1]
    assert "the limit of 75 tokens" in "\n".join(found.warnings)


def test_issues_are_listed_with_their_image_or_under_other_files(tmp_path, monkeypatch):
    folder = images(tmp_path / "p", (64, 64), (64, 64))
    noted = (
        plans.FileIssue(folder / "0.png", "turned", "The camera's note turns it."),
        plans.FileIssue(folder / "0.png", "duplicate", "Like 1.png."),
        plans.FileIssue(folder / "broken.png", "unreadable", "is not an image.", left_out=True),
        plans.FileIssue(folder / "0.txt", "encoding", "Read as Windows-1252."),
    )
    whole = reports.plan_of
    monkeypatch.setattr(reports, "plan_of", lambda *given: dataclasses.replace(whole(*given), issues=noted))
    found = preview_dataset([Concept(instance_data_dir=str(folder), instance_prompt="a dog")], SMALL)
    assert found.pictures[0]["warnings"] == ["The camera's note turns it.", "Like 1.png."]
    assert found.pictures[1]["warnings"] == []
    assert [(row["path"], row["kind"], row["warning_kinds"]) for row in found.other_files] == [
        (str(folder / "broken.png"), "left out", ["unreadable"]),
        (str(folder / "0.txt"), "other", ["encoding"]),
    ]
    assert found.totals["left_out"] == 1
    assert found.totals["notes"] == {"duplicate": 1, "encoding": 1, "turned": 1, "unreadable": 1}


def test_two_epochs_show_what_the_table_says(mini, tmp_path, monkeypatch):
    """Every trained batch: images, crops, captions, counts, steps; and the size of the caches."""
    folder = images(tmp_path / "dogs", (64, 64), (90, 64), (128, 64), (64, 128), (70, 64), caption="sks dog, wet, red")
    classes = images(tmp_path / "others", *[(64, 64)] * 3, (64, 128), caption="a dog")
    concept = Concept(instance_data_dir=str(folder), class_data_dir=str(classes), num_repeats=3, n_save_sample=0)
    values = {"resolution": 64, "bucket_step": 16, "num_train_epochs": 2, "train_batch_size": 2, "use_lora": True,
              "stop_text_encoder": 0, "save_preview_every": 0, "gradient_accumulation_steps": 2}  # fmt: skip
    config = actions.configure(mini, values, [concept])
    found = preview_dataset(config.concepts, config.settings, mini)
    assert found.pictures == preflight(mini, config).as_dict()["table"]

    shown, said = [], []
    latents, prompts = LatentStore.batch, CachedPromptEmbedder.batch
    monkeypatch.setattr(LatentStore, "batch", lambda self, e, g: shown.append(list(e)) or latents(self, e, g))
    monkeypatch.setattr(
        CachedPromptEmbedder, "batch", lambda self, texts: said.append(list(texts)) or prompts(self, texts)
    )
    result = actions.train(mini, config)
    assert result.steps == found.totals["steps"] == 2 * found.totals["steps_per_epoch"]

    rows = {(row["path"], tuple(row["bucket"])): row for row in found.pictures}
    counts: Counter[str] = Counter()
    for examples, texts in zip(shown, said, strict=True):
        for example, text in zip(examples, texts, strict=True):
            row = rows[str(example.path), example.bucket]
            assert list(example.box) == row["crop"]
            (caption,) = row["captions"]
            assert (
                sorted(split_tags(text)) == sorted(split_tags(caption))
                and split_tags(text)[0] == split_tags(caption)[0]
            )
            counts[row["kind"]] += 1
            counts[row["path"]] += row["kind"] == "instance"
    assert counts["instance"] == counts["class"] == 2 * found.totals["showings_per_epoch"]
    for row in found.pictures:
        if row["kind"] == "instance":
            assert counts[row["path"]] == 2 * row["repeats"]
    on_disk = sum(path.stat().st_size for path in mini.cache.rglob("*.safetensors"))
    assert on_disk == pytest.approx(found.totals["cache_bytes"], rel=0.05)
    again = preview_dataset(config.concepts, config.settings, mini).totals
    assert again["seconds"] == pytest.approx(again["steps"] * again["seconds_per_step"], abs=0.1)
    assert again["memory_bytes"] > 0


def test_class_images_that_a_model_would_generate(mini, tmp_path):
    folder = images(tmp_path / "dogs", (64, 64), (64, 64), caption="sks dog")
    concept = Concept(instance_data_dir=str(folder), num_class_images_per=3, class_prompt="a dog",
                      class_data_dir=str(tmp_path / "not there yet"))  # fmt: skip
    assert preview_dataset([concept], SMALL, mini).totals["class_images_to_draw"] == 6
    assert preview_dataset([concept], SMALL).totals["class_pictures"] == 0
    assert preview_dataset([dataclasses.replace(concept, class_data_dir="")], SMALL).totals["pictures"] == 2


def test_reasons_why_nothing_is_to_be_seen(mini, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        preview_dataset([Concept(instance_data_dir=str(tmp_path / "nowhere"))], SMALL)
    shutil.rmtree(mini.root)
    with pytest.raises(UserError, match="There is no model"):
        preview_dataset([Concept(instance_data_dir=str(tmp_path))], SMALL, mini)
