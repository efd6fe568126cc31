"""Captions from files with any extension, by line, with wildcards, per concept: what is picked, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.captions.reading import FROM_DEFAULT, CaptionSource, read_caption
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.table import table
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.settings import Concept, Settings

FIXED = Settings(resolution=64, bucket_step=64, shuffle_tags=False)


def concept(folder: Path, captions: dict[str, str], **fields: object) -> Concept:
    """One image for each caption; the keys are the names of the caption files, "" for an image without one."""
    folder.mkdir(parents=True)
    for number, (name, text) in enumerate(captions.items()):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / (Path(name).stem or "3_no_words"), "PNG")
        (folder / (Path(name).stem or "3_no_words")).rename(folder / f"{Path(name).stem or '3_no_words'}.png")
        if name:
            (folder / name).write_text(text, encoding="utf-8")
    return Concept(instance_data_dir=str(folder), **fields)


def shown(plan: Plan, epochs: int = 60) -> Counter[str]:
    return Counter(e.caption for epoch in range(epochs) for b in plan.epoch(0, epoch, 1) for e in b.instances)


def test_the_first_ending_that_is_there(tmp_path: Path) -> None:
    made = concept(tmp_path / "a", {"a.txt": "of txt", "b.caption": "of caption", "": ""})
    (tmp_path / "a/a.caption").write_text("not read")
    (tmp_path / "a/b.wd14").write_text("of wd14")
    assert set(shown(make_plan([made], FIXED), 1)) == {"of txt", "of caption", "no words"}
    other = dataclasses.replace(made, caption_extension="wd14, .caption", default_caption="a toy, [FileName]")
    assert set(shown(make_plan([other], FIXED), 1)) == {"not read", "of wd14", "a toy, no words"}
    silent = dataclasses.replace(made, caption_extension="", default_caption="")
    plan = make_plan([silent], FIXED)
    assert set(shown(plan, 1)) == {""} and {e.caption_source for e in plan.examples} == {FROM_DEFAULT}
    with pytest.raises(UserError, match="caption_extension"):
        make_plan([dataclasses.replace(made, caption_extension="../x")], FIXED)


def test_lines(tmp_path: Path) -> None:
    text = "\n a red hat \n\na blue hat\na green hat\n"
    made = concept(tmp_path / "a", {"a.txt": text}, instance_prompt="photo of [filewords]")
    joined, first, random = (
        make_plan([dataclasses.replace(made, caption_lines=lines)], FIXED) for lines in ("joined", "first", "random")
    )
    assert set(shown(joined)) == {"photo of a red hat a blue hat a green hat"}
    assert set(shown(first)) == {"photo of a red hat"} and not first.prompts_vary() and len(first.prompts()) == 1
    counts = shown(random, 300)
    assert set(counts) == {f"photo of a {colour} hat" for colour in ("red", "blue", "green")}
    assert min(counts.values()) > 70
    assert random.prompts_vary() and not random.prompts(), "none of them is known before it is picked"
    assert random.examples[0].caption == "photo of a red hat", "what the table shows first"
    assert shown(random, 5) == shown(random, 5)
    assert len({plan.fingerprint() for plan in (joined, first, random)}) == 3


def test_wildcards(tmp_path: Path) -> None:
    made = concept(tmp_path / "a", {"a.txt": "a {red|blue} hat, {{as it is}}, {|wet}, {alone}"}, wildcards=True)
    plan = make_plan([made], FIXED)
    ends = (", {as it is}, alone", ", {as it is}, wet, alone")
    assert set(shown(plan)) == {f"a {colour} hat{end}" for colour in ("red", "blue") for end in ends}
    assert plan.examples[0].caption == "a red hat, {as it is}, alone"
    assert plan.prompts_vary()
    plain = make_plan([dataclasses.replace(made, wildcards=False)], FIXED)
    assert set(shown(plain)) == {"a {red|blue} hat, {{as it is}}, {|wet}, {alone}"} and not plain.prompts_vary()


def test_separators(tmp_path: Path) -> None:
    text = "sks, dog ||| a, b;;;c ||| last"
    made = concept(tmp_path / "a", {"a.txt": text}, keep_separator="|||", second_separator=";;;")
    still = make_plan([made], FIXED)
    assert set(shown(still)) == {"sks, dog, a, b, c, last"} and not still.prompts_vary()
    moved = make_plan([made], dataclasses.replace(FIXED, shuffle_tags=True, keep_tokens=1))
    assert set(shown(moved)) == {"sks, dog, a, b, c, last", "sks, dog, b, c, a, last"}


def test_a_concept_varies_as_it_says_and_the_others_as_the_run(tmp_path: Path) -> None:
    captions = {"a.txt": "sks, a, b, c"}
    as_run = concept(tmp_path / "a", captions)
    own = concept(tmp_path / "b", captions, shuffle_tags="off", hflip="on", tag_dropout=0, caption_dropout=0.5)
    run = dataclasses.replace(FIXED, shuffle_tags=True, tag_dropout=0.2)
    plan = make_plan([as_run, own], run)
    used = [e for epoch in range(60) for batch in plan.epoch(0, epoch, 1) for e in batch.instances]
    first, second = ([e for e in used if e.concept == number] for number in (0, 1))
    assert len({e.caption for e in first}) > 5 and not any(e.flipped for e in first)
    assert {e.caption for e in second} == {"sks, a, b, c", ""} and 10 < sum(e.flipped for e in second) < 50
    assert {e.concept for e in plan.images() if e.flipped} == {1}
    assert plan.prompts() == ["", "sks, a, b, c"]
    other = make_plan([as_run, dataclasses.replace(own, caption_dropout=0.25)], run)
    assert plan.fingerprint() != other.fingerprint(), "an exact resume must find it unchanged"
    assert Variation.of(run, dataclasses.replace(own, keep_tokens=2)).keep_tokens == 2


def test_two_images_with_one_caption_file(tmp_path: Path) -> None:
    made = concept(tmp_path / "a", {"a.txt": "a dog"})
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a/a.jpg")
    plan = make_plan([made], FIXED)
    assert [e.caption for e in plan.examples] == ["a dog", "a dog"]
    assert any("caption file" in warning and "a.png" in warning for warning in plan.warnings)


def test_folders_below_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    made = concept(tmp_path / "a", {"a.txt": "a dog"})
    concept(tmp_path / "a/more", {"b.txt": "a cat"})
    assert set(shown(make_plan([made], FIXED), 1)) == {"a dog", "a cat"}
    alone = make_plan([dataclasses.replace(made, subfolders=False)], FIXED)
    assert set(shown(alone, 1)) == {"a dog"}
    assert any("b.png" in warning for warning in alone.warnings)


def test_captions_of_a_metadata_file(tmp_path: Path) -> None:
    made = concept(tmp_path / "a", {"a.txt": "not read", "b.txt": "not read", "c.txt": "not read"})
    entries = {"a.png": {"caption": "a dog\na hound", "tags": "brown, wet"}, "b": {"tags": "cat"}}
    (tmp_path / "meta.json").write_text(json.dumps(entries))
    listed = dataclasses.replace(made, metadata_file=str(tmp_path / "meta.json"))
    (unlisted,) = make_plan([listed], FIXED).warnings
    assert unlisted.startswith("Not listed in the metadata file (1)") and unlisted.endswith("c.png")
    (tmp_path / "more.json").write_text(json.dumps({**entries, "gone.png": {}}))
    more = dataclasses.replace(made, metadata_file=str(tmp_path / "more.json"))
    assert "gone.png" in make_plan([more], FIXED).warnings[0]
    assert set(shown(make_plan([listed], FIXED), 1)) == {"a dog a hound, brown, wet", "cat"}
    random = make_plan([dataclasses.replace(listed, caption_lines="random")], FIXED)
    assert set(shown(random)) == {"a dog, brown, wet", "a hound, brown, wet", "cat"}
    rows = [{"image_path": str(tmp_path / "a" / key), **entry} for key, entry in entries.items()]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)))
    as_lines = dataclasses.replace(listed, metadata_file=str(tmp_path / "meta.jsonl"))
    assert make_plan([as_lines], FIXED).fingerprint()
    for text in ("[]", "{", '{"a.png": 3}'):
        (tmp_path / "meta.json").write_text(text)
        with pytest.raises(UserError, match=r"meta\.json"):
            make_plan([listed], FIXED)
    with pytest.raises(UserError, match="can't be read"):
        make_plan([dataclasses.replace(listed, metadata_file="nowhere.json")], FIXED)


def test_an_image_without_a_caption_file(tmp_path: Path) -> None:
    assert read_caption(tmp_path / "1_a_dog.png", CaptionSource(default_caption="sks dog")).text == "sks dog"


def test_the_table_shows_what_varies_each_time(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("zwx ||| {red|blue}, hat, cup ||| end\nanother line")
    concept = Concept(instance_data_dir=str(tmp_path), caption_lines="random", wildcards=True, keep_separator="|||")
    (row,) = table(make_plan([concept], FIXED))
    assert row["varies"] == ["one of 2 captions each time", "one option of each wildcard each time"]
    (row,) = table(make_plan([dataclasses.replace(concept, shuffle_tags="on")], FIXED))
    assert row["varies"][-1] == "tags shuffled after zwx"
