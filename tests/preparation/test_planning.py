"""A preparation does exactly what its dry run showed, and never loses an original."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from dreambooth.actions.images import prepare, undo_preparation
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import Cancelled, UserError
from dreambooth.settings import Concept, Settings
from dreambooth.settings.preparation import PrepareOptions
from tests.images.scenes import scene


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    return path


def contents(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


# -- names ----------------------------------------------------------------------------------------------------


def test_colliding_names_get_a_number_and_keep_their_captions(folder):
    for name in ("a.png", "a.jpg", "A.webp", "b.jpg"):
        scene().save(folder / name)
    (folder / "a.txt").write_text("of both")
    (folder / "b.txt").write_text("of b")
    done = prepare(folder, PrepareOptions(format="PNG"))
    becomes = {change.source.name: change.destination.name for change in done.changes}
    assert becomes["a.png"] == "a.png" and becomes["b.jpg"] == "b.png"
    assert {becomes["a.jpg"], becomes["A.webp"]} == {"a-2.png", "A-3.png"} or {
        becomes["a.jpg"], becomes["A.webp"]} == {"a-3.png", "A-2.png"}  # fmt: skip
    captions = {path.name: path.read_text() for path in done.out.glob("*.txt")}
    assert captions == {"a.txt": "of both", becomes["a.jpg"].replace("png", "txt"): "of both", "b.txt": "of b"}


def test_subfolders_are_kept_and_numbered_separately(folder):
    for name in ("10_sks dog", "1_dog"):
        (folder / name).mkdir()
        for n in (1, 2, 10):
            scene().save(folder / name / f"{n}.png")
    done = prepare(folder, PrepareOptions(rename="{folder} {n:3}"))
    named = {str(change.source.relative_to(folder)): str(change.destination.relative_to(done.out)) for change in
             done.changes}  # fmt: skip
    assert named[os.path.join("10_sks dog", "10.png")] == os.path.join("10_sks dog", "10_sks dog 003.png")
    assert len(set(named.values())) == 6
    assert any("training uses the file name as the caption" in line for line in done.warnings)


def test_captions_in_one_file_are_not_lost_silently(folder):
    scene().save(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a dog"}')
    assert any("1 image has its caption in a metadata" in line for line in prepare(folder, PrepareOptions()).warnings)


def test_all_problems_are_reported_at_once_and_nothing_is_written(folder, tmp_path):
    scene().save(folder / "a.png")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    rejected = {
        "can't be part of a file's name": {"rename": "../{name}"},
        "begins or ends with a dot": {"rename": ".{name}"},
        "gives all images the same name": {"rename": "{folder}"},
        "ends like the name of a mask": {"rename": "{name}_mask"},
        "is not a size": {"crop": "smart", "fixed_size": "512"},
        "is not a color": {"flatten": "colorless"},
        "not a multiple of 8": {"crop": "centre", "bucket_step": 9},
        "is inside the folder of the originals": {"out": str(folder / "below")},
        "Choose a folder outside it": {"out": str(folder)},
        "is not empty": {"out": str(full)},
        "is a file": {"out": str(full / "mine.txt")},
    }
    for message, options in rejected.items():
        with pytest.raises(UserError, match=message):
            prepare(folder, PrepareOptions(**options))
    with pytest.raises(UserError) as caught:
        prepare(folder, PrepareOptions(rename="a/b", flatten="x", crop="smart", fixed_size="0x5"))
    assert len(caught.value.problems) == 4
    assert contents(tmp_path) == {"photos/a.png": (folder / "a.png").read_bytes(), "full/mine.txt": b"mine"}


# -- safety ---------------------------------------------------------------------------------------------------


def test_the_dry_run_shows_what_is_done_deterministically(folder):
    for n in range(5):
        scene((90 + n, 60), seed=n).save(folder / f"{n}.jpg")
    before = contents(folder)
    options = PrepareOptions(crop="smart", resolution=64, bucket_step=8, mirror="add copies", format="WebP", quality=80)
    planned = prepare(folder, options, dry_run=True)
    assert contents(folder.parent) == {f"photos/{name}": data for name, data in before.items()}
    first = prepare(folder, options)
    assert first == planned and len(contents(first.out)) == 10
    assert contents(prepare(folder, options).out) == contents(first.out)
    assert contents(folder) == before


def test_broken_images_are_named_and_skipped(folder):
    scene().save(folder / "good.png")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-40])
    (folder / "text.jpg").write_text("not an image")
    scene().save(folder / "masked.png")
    (folder / "masked_mask.png").write_bytes(b"no mask")
    done = prepare(folder, PrepareOptions())
    assert [path.name for path in done.out.iterdir()] == ["good.png"]
    assert {line.partition(": ")[0].rpartition(os.sep)[2] for line in done.skipped} == {
        "empty.png", "cut.png", "text.jpg", "masked_mask.png",
    }  # fmt: skip
    (folder / "good.png").unlink()
    with pytest.raises(UserError, match="none of its images can be prepared"):
        prepare(folder, PrepareOptions())


def test_in_place_and_undo(folder):
    (folder / "sub").mkdir()
    for name in ("1.png", "2.jpg", "3.png", "sub/4.png", "left.png"):
        scene((90, 60), seed=len(name)).save(folder / name)
    (folder / "1.txt").write_text("one")
    (folder / "2.png").write_bytes(b"broken, but mine")
    (folder / "notes.doc").write_text("notes")
    before = contents(folder)
    done = prepare(folder, PrepareOptions(in_place=True, format="PNG", rename="{n}", crop="center", fixed_size="32x32"))
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "1.png", "1.txt", "2.png", "2-2.png", "3.png", "4.png", "sub", "notes.doc"
    }  # fmt: skip
    assert (folder / "2.png").read_bytes() == b"broken, but mine" and (folder / "1.txt").read_text() == "one"
    plan = make_plan([Concept(instance_data_dir=str(folder / "sub"))], Settings(resolution=64))
    assert [example.path.name for example in plan.examples] == ["1.png"]
    originals = contents(done.originals)
    assert originals == {name: data for name, data in before.items() if name not in ("1.txt", "2.png", "notes.doc")}
    prepare(folder, PrepareOptions(in_place=True, mirror="add copies"))  # twice: undone one by one
    undo_preparation(folder)
    undo_preparation(folder)
    assert contents(folder) == before and not list(folder.glob(".*"))
    with pytest.raises(UserError, match="no preparation in place to undo"):
        undo_preparation(folder)


def test_undo_keeps_files_edited_since(folder):
    scene().save(folder / "a.png")
    (folder / "a.txt").write_text("old")
    before = contents(folder)
    prepare(folder, PrepareOptions(in_place=True, rename="b{n}"))
    (folder / "b1.txt").write_text("edited since")
    scene(seed=5).save(folder / "a.png")  # at the original's place
    undone = undo_preparation(folder)
    assert undone["restored"] == 2 and undone["removed"] == 1 and len(undone["set_aside"]) == 2
    aside = {Path(path).name: Path(path).read_bytes() for path in undone["set_aside"]}
    assert aside["b1.txt"] == b"edited since" and set(aside) == {"a.png", "b1.txt"}
    assert {name: data for name, data in contents(folder).items() if not name.startswith(".")} == before


def test_an_undo_list_that_leads_out_of_the_folder_is_rejected(folder, tmp_path):
    outside = tmp_path / "mine.txt"
    outside.write_text("mine")
    originals = folder / ".originals-20200101-000000"
    originals.mkdir()
    for moved, made in (([], {"../mine.txt": "x"}), ([str(outside)], {}), (5, {})):
        (originals / "undo.json").write_text(json.dumps({"moved": moved, "made": made}))
        with pytest.raises(UserError, match="not a valid undo list"):
            undo_preparation(folder)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("in_place", [False, True])
def test_cancelled_between_images_nothing_is_left(folder, in_place):
    for n in range(6):
        scene(seed=n).save(folder / f"{n}.png")
    before = contents(folder.parent)

    def cancel(done, total, what):
        if what == "preparing images" and done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare(folder, PrepareOptions(in_place=in_place, mirror="instead"), progress=cancel)
    assert contents(folder.parent) == before and {path.name for path in folder.parent.iterdir()} == {"photos"}


def test_files_changed_meanwhile_are_skipped(folder):
    for n in range(4):
        scene(seed=n).save(folder / f"{n}.png")
    changed = io.BytesIO()
    scene(seed=9).save(changed, "PNG")

    def meddle(done, total, what):
        if what == "reading images" and done == total:
            (folder / "3.png").write_bytes(changed.getvalue())
            (folder / "2.png").unlink()

    done = prepare(folder, PrepareOptions(in_place=True, mirror="instead"), progress=meddle)
    assert len(done.changes) == 2 and len(done.skipped) == 2
    assert (folder / "3.png").read_bytes() == changed.getvalue()


def test_in_place_no_file_overwrites_one_that_stays(folder):
    for n in (0, 1, 2):  # each takes the name of the previous one
        scene(seed=n).save(folder / f"{n}.png")
    before = contents(folder)

    def spoil(done, total, what):
        if what == "reading images" and done == total:
            (folder / "2.png").write_bytes(b"broken meanwhile")

    with pytest.raises(UserError, match=r"2\.png is in the way and is not overwritten\. Nothing was changed"):
        prepare(folder, PrepareOptions(in_place=True, rename="{n}"), progress=spoil)
    assert contents(folder) == {**before, "2.png": b"broken meanwhile"}


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_in_place_does_not_follow_links(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    scene().save(other / "theirs.png")
    scene().save(folder / "mine.png")
    (folder / "link").symlink_to(other)
    before = contents(other)
    done = prepare(folder, PrepareOptions(in_place=True, mirror="instead"))
    assert contents(other) == before and len(done.changes) == 1 and "behind a link" in done.skipped[0]
