"""Captions in one file for many images: the columns and formats of datasets, in a folder or as a concept's file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth.captions.metadata_rows import read_rows
from dreambooth.captions.reading import CaptionSource, read_caption
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.settings import Concept, Settings

RUN = Settings(resolution=64, bucket_step=64, shuffle_tags=False)


def make_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (40 * number, 0, 0)).save(path)
    return folder


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def captions(plan: Plan) -> dict[str, str]:
    return {example.path.name: example.caption for example in plan.examples}


def plan_of(folder: Path, **fields: Any) -> Plan:
    return make_plan([Concept(instance_data_dir=str(folder), **fields)], RUN)


# Name of the file, its text, and the captions of a.png and b.png.
FILES = {
    "text column": ("m.jsonl", lines({"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"})),
    "prompt column": ("m.jsonl", lines({"prompt": "a", "file_name": "a.png"}, {"prompt": "b", "file_name": "b.png"})),
    "the only text": ("m.jsonl", lines({"file_name": "a.png", "what": "a"}, {"file_name": "b.png", "what": "b"})),
    "several files in a row": (
        "m.jsonl",
        lines({"file_names": ["a.png"], "text": "a"}, {"file_names": ["b.png"], "text": "b"}),
    ),
    "image objects": (
        "m.jsonl",
        lines({"image": {"path": "a.png"}, "text": "a"}, {"image": {"path": "b.png"}, "text": "b"}),
    ),
    "table": ("m.csv", "file_name,text\r\na.png,a\r\nb.png,b\r\n"),
    "table of a spreadsheet": ("m.csv", "\ufeffid;file_name;caption\n1;a.png;a\n2;b.png;b\n"),
    "table without a header": ("m.csv", 'a.png,a\n"b.png","b"\n'),
    "separators in texts": (
        "m.jsonl",
        lines({"file_name": "a.png", "text": "a\u2028"}, {"file_name": "./b.png", "text": "\u0085b"}) + "\r\n",
    ),
    "tabs": ("m.tsv", "text\tfile_name\na\ta.png\nb\tb.png\n"),
    "list": ("m.json", json.dumps([{"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": "b"}])),
    "texts by name": ("m.json", json.dumps({"a.png": "a", "b.png": "b"})),
    "objects by name": ("m.json", json.dumps({"a": {"caption": "a"}, "b.png": {"caption": "b"}})),
    "names in capitals": ("m.csv", "file_name,text\nA.PNG,a\nB.png,b\n"),
    "rows in an object": (
        "m.json",
        json.dumps({"data": [{"filename": "a.png", "text": "a"}, {"filename": "b.png", "text": "b"}]}),
    ),
    "coco": (
        "m.json",
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
                "annotations": [{"image_id": 2, "caption": "b"}, {"image_id": 1, "caption": "a"}],
            }
        ),
    ),
    "rows of sd-scripts": ("m.jsonl", lines({"image_path": "a.png", "tags": "a"}, {"image_path": "b", "caption": "b"})),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("inside", [True, False])
def test_a_concepts_metadata_file(tmp_path: Path, name: str, inside: bool) -> None:
    folder = make_images(tmp_path / "d", "a.png", "b.png")
    file, text = FILES[name]
    path = (folder if inside else tmp_path) / file
    path.write_text(text, encoding="utf-8")
    plan = plan_of(folder, metadata_file=str(path))
    assert captions(plan) == {"a.png": "a", "b.png": "b"} and not plan.warnings


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "Metadata.JSONL"])
def test_a_file_in_the_folder_gives_captions_to_images_without_a_caption_file(tmp_path: Path, name: str) -> None:
    folder = make_images(tmp_path / "d", "a.png", "b.png", "c.png", "below/e.png")
    (folder / "b.txt").write_text("own")
    rows = [{"file_name": f"{stem}.png", "text": f"of {stem}"} for stem in ("a", "b", "gone")]
    rows += [{"file_name": "below/e.png", "text": "of e"}]
    table = "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
    (folder / name).write_text(lines(*rows) if name.lower().endswith("jsonl") else table)
    plan = plan_of(folder)
    assert captions(plan) == {"a.png": "of a", "b.png": "own", "c.png": "c", "e.png": "of e"}
    warnings = "\n".join(plan.warnings)
    assert "1 image listed in it also have a caption file" in warnings and "metadata_file" in warnings
    assert "gone.png" in warnings and "Not listed in the metadata file (1)" in warnings and "c.png" in warnings
    assert not any(name in str(issue.path) for issue in plan.issues), "it is used"
    all_of_it = plan_of(folder, metadata_file=str(folder / name))
    assert captions(all_of_it) == {"a.png": "of a", "b.png": "of b", "e.png": "of e"}
    as_sd_scripts = captions(plan_of(folder, reading_rule="kohya", default_caption="x"))
    assert as_sd_scripts == {"a.png": "x", "b.png": "own", "c.png": "x", "e.png": "x"}


def test_a_file_lists_images_in_its_own_folder_and_below(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "one/a.png", "two/a.png")
    (folder / "one/metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "first"}))
    (folder / "metadata.jsonl").write_text(
        lines({"file_name": "one/a.png", "text": "far"}, {"file_name": "two/a.png", "text": "second"})
    )
    plan = plan_of(folder)
    assert [example.caption for example in plan.examples] == ["first", "second"]
    assert read_caption(folder / "two/a.png").text == "second", "what editing and tagging show"
    assert captions(plan_of(folder / "two")) == {"a.png": "second"}
    (folder / "one/metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "changed"}))
    os.utime(folder / "one/metadata.jsonl", ns=(1, 1))
    assert read_caption(folder / "one/a.png").text == "changed"
    assert read_caption(folder / "one/a.png", CaptionSource((), "none")).text == "none", "files are not to be read"


def test_folders_without_such_a_file_are_planned_as_before(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png", "b.png")
    (folder / "a.txt").write_text("a dog")
    before = plan_of(folder).fingerprint()
    (tmp_path / "metadata.jsonl").write_text(lines({"file_name": "other/x.png", "text": "x"}))
    plan = plan_of(folder)
    assert plan.fingerprint() == before and not any("metadata" in warning for warning in plan.warnings)


def test_a_damaged_file_in_the_folder_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png")
    (folder / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "x"}) + "{broken\n")
    plan = plan_of(folder)
    assert captions(plan) == {"a.png": "a"}
    (warning,) = [warning for warning in plan.warnings if "metadata.jsonl" in warning]
    assert warning.startswith("Not used for captions") and "line 2" in warning


def test_a_file_that_lists_other_images_is_reported(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png")
    (folder / "metadata.csv").write_text("file_name,text\nx.png,x\n")
    assert any("lists none of the images" in warning for warning in plan_of(folder).warnings)


def test_several_captions_of_an_image_are_chosen_at_random(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png", "b.png")
    (folder / "m.jsonl").write_text(
        lines(
            {"file_name": "a.png", "text": "one"}, {"file_name": "a.png", "text": "two"},
            {"file_name": "b.png", "text": ["three", "four"]},
        )
    )  # fmt: skip
    plan = plan_of(folder, metadata_file=str(folder / "m.jsonl"))
    assert [example.variants for example in plan.examples] == [("one", "two"), ("three", "four")]
    assert any("a.png" in warning and "listed more than once" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    "path", [r"sub\a.png", r"D:\data\d\sub\a.png", "D:/data/sub/a.png", "/home/other/data/sub/a.png", "/gone/a"]
)
def test_paths_of_another_computer(tmp_path: Path, path: str) -> None:
    folder = make_images(tmp_path / "d", "a.png" if path == "/gone/a" else "sub/a.png")
    for name, text in {
        "m.jsonl": lines({"file_name": path, "text": "found"}),
        "m.json": json.dumps({path: {"caption": "found"}}),
    }.items():
        (tmp_path / name).write_text(text)
        plan = plan_of(folder, metadata_file=str(tmp_path / name))
        assert captions(plan) == {"a.png": "found"}
        assert bool(plan.warnings) == (path != r"sub\a.png"), plan.warnings


def test_without_captions_an_image_is_trained_with_an_empty_one(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png", "b.png")
    (folder / "m.jsonl").write_text(lines({"file_name": "a.png", "text": None}, {"file_name": "b.png", "text": "b"}))
    assert captions(plan_of(folder, metadata_file=str(folder / "m.jsonl"))) == {"a.png": "", "b.png": "b"}


DAMAGED = {
    "no.jsonl": ('{"file_name": "a.png"}\n[1]\n', "line 2"),
    "names.csv": ("name,text\na.png,a\n", "file_name"),
    "other.csv": ("file_name,text\nx.png,x\n", "lists none of the 1 image"),
    "several.csv": ("file_name,one,two\na.png,a,b\n", "one, two"),
    "none.jsonl": ('{"file_name": "a.png", "n": 1}', "text"),
    "nameless.jsonl": ('{"file_name": "a.png", "text": "a"}\n{"file_name": "", "text": "b"}', "row 2"),
    "empty.jsonl": ("\n", "no rows"),
    "empty.json": ("[]", "empty"),
    "number.json": ("3", "JSON object"),
    "data.parquet": ("PAR1", "Export them as files"),
    "binary.csv": ("\0\0", "not a text file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, name: str) -> None:
    text, cause = DAMAGED[name]
    folder = make_images(tmp_path / "d", "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=cause) as error:
        plan_of(folder, metadata_file=str(tmp_path / name))
    assert name in str(error.value)


def test_a_folder_with_a_packed_dataset_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="export its images"):
        plan_of(tmp_path)


def test_tables_of_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(
        "file_name,text\na.png,红色的玩具，放在木桌上，白色背景\nb.png,蓝色的帽子，放在椅子上\n".encode("gbk")
    )
    assert read_rows(path).rows[0].captions == ("红色的玩具，放在木桌上，白色背景",)
    path.write_bytes("file_name,text\na.png,ä dög\n".encode("utf-16"))
    assert read_rows(path).rows[0].captions == ("ä dög",)


def test_the_concept_is_unchanged_by_its_file(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "d", "a.png")
    (folder / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "a, b"}))
    concept = Concept(instance_data_dir=str(folder), instance_token="zwx", class_token="dog")
    plan = make_plan([concept], RUN)
    assert captions(plan) == {"a.png": "zwx, a, b"}
    assert captions(make_plan([dataclasses.replace(concept, instance_prompt="photo of [filewords]")], RUN)) == {
        "a.png": "zwx, photo of a, b"
    }
