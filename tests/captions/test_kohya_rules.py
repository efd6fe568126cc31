"""An imported configuration has exactly the captions and images of sd-scripts.

Expected values were recorded from the dataset code of sd-scripts (commit 48d368f) for the same files, sampled often
enough to see every possible caption.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.settings import Settings, parse

SHUFFLED = {"shuffle_caption": True, "keep_tokens": 1}
WILD = {"enable_wildcard": True}
# (keys of the subset, text of the caption file, possible training captions)
CAPTIONS = [
    ({}, "sls,red  hat, (a, b),\nsecond", ["sls,red  hat, (a, b),"]),
    ({}, "\nlate", [""]),
    ({}, "a\x0bb\u2028c\rd", ["a\x0bb\u2028c"]),
    ({}, "sls ||| a;;;b {c|d}", ["sls ||| a;;;b {c|d}"]),
    (SHUFFLED, "sls, (red, soft),", ["sls, (red, , soft)", "sls, (red, soft), ", "sls, , (red, soft)",
                                     "sls, , soft), (red", "sls, soft), (red, ", "sls, soft), , (red"]),
    ({"caption_tag_dropout_rate": 0.5, "keep_tokens": 1}, "sls,,hat", ["sls", "sls, ", "sls, , hat", "sls, hat"]),
    ({**SHUFFLED, "caption_prefix": "photo, ", "caption_suffix": " , wet"}, "sls",
     ["photo, sls, wet", "photo, wet, sls"]),
    ({"caption_prefix": "a", "caption_suffix": "z", **WILD}, "b\n\n  c \nd", ["a b", "c", "d z"]),
    ({**SHUFFLED, "keep_tokens_separator": "|||"}, "a,, b ||| c, d ||| e ||| f",
     ["a, b, c, d, e ||| f", "a, b, d, c, e ||| f"]),
    ({"keep_tokens_separator": "|||"}, "a,b|||c", ["a,b|||c"]),
    ({**SHUFFLED, "secondary_separator": ";;;"}, "a ;;; b, c;;;d, e", ["a , b, c,d, e", "a , b, e, c,d"]),
    ({"secondary_separator": ";;;"}, "a;;;b", ["a,b"]),
    (WILD, "{a|b}} {{c}} {d}", ["a", "b} {c} {d"]),
    (WILD, "{{{a|b}}}", ["{a", "{b}"]),
    (WILD, ", {x|y}}|,", [", {x|y}|,"]),
    (WILD, "{a{b|c}{}", ["a{b{}", "c{}"]),
    ({**SHUFFLED, **WILD}, "sls, {red, soft|blue}", ["sls, blue", "sls, red, soft", "sls, soft, red"]),
]  # fmt: skip
# (entry of a metadata file, possible captions with caption_prefix = "p", the same with enable_wildcard).
ENTRIES = [
    ({"caption": "one\ntwo", "tags": "x,y"}, ["p one"], ["p one,x,y", "two,x,y"]),
    ({"tags": "x, y"}, ["p x, y"], ["p "]),
    ({"caption": "one", "tags": ""}, ["p one"], ["p one,"]),
    ({"caption": " one\n\n two ", "tags": None}, ["p  one"], ["", " two ", "p  one"]),
    ({"caption": "one", "tags": "x\ny"}, ["p one,x"], ["p one,x,y"]),
    ({}, ["p "], ["p "]),
]  # fmt: skip


def make_image(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name) * 9, 0, 0)).save(path)
    return path


def imported(folder: Path, name: str = "dataset.toml", **values: object) -> tuple[RecognizedInput, Plan]:
    if values:
        whole = {"image_dir": "a", **values}
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in whole.items())
        (folder / name).write_text(f"[[datasets]]\nresolution = 64\n[[datasets.subsets]]\n{lines}\n")
    found = recognize_input(folder / name)
    return found, make_plan(found.concepts, parse(Settings, found.settings))


def training_captions(plan: Plan, epochs: int = 250) -> list[list[str]]:
    """The sorted captions that each image is trained with, in the order of the images."""
    shown: dict[Path, set[str]] = {example.path: set() for example in plan.examples}
    for epoch in range(epochs):
        for batch in plan.epoch(0, epoch, 1):
            for example in batch.instances:
                shown[example.path].add(example.caption)
    return [sorted(captions) for captions in shown.values()]


@pytest.mark.parametrize("row", CAPTIONS, ids=lambda row: repr(row[1]))
def test_captions_are_those_of_sd_scripts(tmp_path: Path, row: tuple[dict, str, list[str]]) -> None:
    values, text, wanted = row
    make_image(tmp_path / "a/0.png").with_suffix(".txt").write_bytes(text.encode())
    found, plan = imported(tmp_path, caption_extension=".txt", **values)
    assert training_captions(plan) == [sorted(wanted)] and not found.unsupported
    assert any("has no caption for it" in issue.text for issue in plan.issues) == (wanted == [""])


@pytest.mark.parametrize("wild", [False, True])
def test_captions_of_a_metadata_file_are_those_of_sd_scripts(tmp_path: Path, wild: bool) -> None:
    named = {str(make_image(tmp_path / f"a/{number}.png")): entry for number, (entry, *_) in enumerate(ENTRIES)}
    (tmp_path / "meta.json").write_text(json.dumps(named))
    _, plan = imported(tmp_path, metadata_file="meta.json", caption_prefix="p", enable_wildcard=wild)
    assert training_captions(plan) == [wanted[wild] for _, *wanted in ENTRIES]


def test_the_images_are_those_that_sd_scripts_find(tmp_path: Path) -> None:
    for name in ("0.png", "1.JPG", "2.gif", "3.tiff", "4.Png", "0_mask.png", "sls_1_2_3_4.webp", "0.bmp", ".5.png"):
        make_image(tmp_path / "a" / name)
    for name in ("0.txt", "0_mask.txt", "sls.txt"):
        (tmp_path / "a" / name).write_text(name)
    _, plan = imported(tmp_path, caption_extension="txt", class_tokens=" none, ")
    captions = {example.path.name: example.caption for example in plan.examples}
    any_case = {"4.Png": " none, "} if Path("A") == Path("a") else {}
    assert captions == {"0.bmp": "0.txt", "0.png": "0.txt", "0_mask.png": "0_mask.txt", "1.JPG": " none, ",
                        "sls_1_2_3_4.webp": "sls.txt", **any_case}  # fmt: skip
    left = {note.path.name for note in plan.issues if note.left_out}
    assert {"2.gif", "3.tiff"} <= left, "every file is used or reported"


def test_a_metadata_file_may_list_images_anywhere(tmp_path: Path) -> None:
    there = [
        make_image(tmp_path / "one/0.png"),
        make_image(tmp_path / "two/deep/0.gif"),
        make_image(tmp_path / "two/1_mask.png"),
    ]
    named = {str(path): {"caption": str(number)} for number, path in enumerate(there)}
    (tmp_path / "a").mkdir()
    (tmp_path / "a/meta.json").write_text(json.dumps(named))
    _, plan = imported(tmp_path, image_dir="one", metadata_file="a/meta.json")
    assert [(example.path, example.caption) for example in plan.examples] == [(p, str(n)) for n, p in enumerate(there)]


def test_differences_in_files_are_reported(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.new("RGB", (96, 64)).save(tmp_path / "a/0.jpg", exif=exif)
    make_image(tmp_path / "a/1.png").with_suffix(".txt").write_text("sls", encoding="utf-8-sig")
    found, _ = imported(tmp_path, caption_extension=".txt", class_tokens="x")
    turned, marked = found.unsupported
    assert "1 image rotated upright" in turned and "captions of 1 caption file;" in marked


# -- training parameters ------------------------------------------------------------------------------------------

TRAINING = "train_data_dir = 'img'\nreg_data_dir = 'reg'\nresolution = '64'\ncaption_extension = '.no'\n"


def test_folder_names_are_parsed_as_by_sd_scripts(tmp_path: Path) -> None:
    for name in ("2023_summer", "1000_x", "5", "7_", "4 _b_c", "12_ lead", "-3_off", "notes", "0_off"):
        make_image(tmp_path / "img" / name / "0.png")
    (tmp_path / "train.toml").write_text(TRAINING)
    _, plan = imported(tmp_path, "train.toml")
    assert {example.path.parent.name: (example.repeats, example.caption) for example in plan.examples} == {
        "2023_summer": (2023, "summer"), "1000_x": (1000, "x"), "5": (5, ""), "7_": (7, ""), "4 _b_c": (4, "b_c"),
        "12_ lead": (12, " lead"),
    }  # fmt: skip


def test_steps_are_reached_for_any_number_of_regularization_images(tmp_path: Path) -> None:
    make_image(tmp_path / "img/2_sls/0.png").with_suffix(".txt").write_text("right")
    for number in range(30):
        make_image(tmp_path / f"reg/1_girl/{number}.png")
    (tmp_path / "train.toml").write_text(TRAINING + "max_train_steps = 50\ncaption_extention = '.txt'\n")
    found, plan = imported(tmp_path, "train.toml")
    assert plan.steps_per_epoch(1) == 4 and found.settings["num_train_epochs"] * 4 >= 50
    assert plan.examples[0].caption == "right", "the misspelt key comes first, as there"
