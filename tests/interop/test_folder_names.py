"""Folders with repeats in their names: captions stay as they are, and names that only look like it get a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.dataset.planning import make_plan
from dreambooth.interop.input_kind import recognize_input
from dreambooth.settings import Settings
from tests.images.odd_images import encoded, noise

SETTINGS = Settings(resolution=128)


def images(folder: Path) -> Path:
    """An image with a caption that lacks the folder's name, and one without a caption."""
    folder.mkdir(parents=True)
    for number, name in enumerate(("captioned", "plain")):
        (folder / f"{name}.png").write_bytes(encoded(noise(number), "PNG"))
    (folder / "captioned.txt").write_text("a red thing on a table")
    return folder


@pytest.mark.parametrize(
    "name", ["Asuka Langley", "saber (fate)", "1girl, solo", "zwx", "zwx_toy v2", "ずんだ もん", "  spaces  "]
)
def test_the_name_is_the_caption_of_images_without_one_and_is_not_written_into_others(
    tmp_path: Path, name: str
) -> None:
    found = recognize_input(images(tmp_path / "root" / f"7_{name}").parent)
    plan = make_plan(found.concepts, SETTINGS)
    expected = " ".join(name.split())
    assert [example.caption for example in plan.examples] == ["a red thing on a table", expected]
    assert [example.repeats for example in plan.examples] == [7, 7]
    assert not plan.warnings


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("12-zwx toy", "12_zwx toy"), ("12 zwx toy", "12_zwx toy"), ("12 - zwx", "12_zwx"), ("x12_toy", "12_toy"),
        ("12x_toy", "12_toy"), ("12X toy", "12_toy"), ("12.toy", "12_toy"), ("12 _toy", "12_toy"),
        ("12＿玩具", "12_玩具"),
    ],
)  # fmt: skip
def test_a_name_that_looks_like_repeats_gets_a_hint(tmp_path: Path, name: str, right: str) -> None:
    for path in (images(tmp_path / "root" / name), tmp_path / "root"):
        plan = make_plan(recognize_input(path).concepts, SETTINGS)
        [hint] = [issue for issue in plan.issues if issue.kind == "folder-name"]
        assert hint.path.name == name and f"rename the folder to {right}," in hint.text
        assert any(f"{name} (rename it to {right} to use it)" in warning for warning in plan.warnings)
        assert {example.repeats for example in plan.examples} == {1}


@pytest.mark.parametrize(
    "name", ["2024-05-01", "2023_summer", "photos", "1 zwx", "12", "v1.5 style", "12_", "zwx 12", "1_zwx"]
)
def test_other_names_get_none(tmp_path: Path, name: str) -> None:
    plan = make_plan(recognize_input(images(tmp_path / name)).concepts, SETTINGS)
    assert "folder-name" not in {issue.kind for issue in plan.issues}


def test_a_folder_with_repeats_in_a_concepts_list_without(tmp_path: Path) -> None:
    folder = images(tmp_path / "12_zwx toy")
    (tmp_path / "concepts.json").write_text('[{"instance_data_dir": "12_zwx toy"}]')
    plan = make_plan(recognize_input(tmp_path / "concepts.json").concepts, SETTINGS)
    assert [issue.text for issue in plan.issues if issue.path == folder] == [
        "has 12 repeats in its name, which only an import of the folder reads. Set Repeats to 12 to use them."
    ]
    (tmp_path / "concepts.json").write_text('[{"instance_data_dir": "12_zwx toy", "num_repeats": 3}]')
    plan = make_plan(recognize_input(tmp_path / "concepts.json").concepts, SETTINGS)
    assert "folder-name" not in {issue.kind for issue in plan.issues}
