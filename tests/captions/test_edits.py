"""Caption edits, one per row: options, caption before, caption after."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.captions.edits import find_matches, plan_edit, plan_text
from dreambooth.captions.folder import CaptionFile, Captions, read_captions
from dreambooth.captions.reading import CaptionSource
from dreambooth.errors import UserError
from dreambooth.settings.caption_edits import AddTags, EditScope, MergeTags, RemoveTags, ReplaceText, SortTags, TidyTags


def folder_of(*texts: str) -> Captions:
    files = (CaptionFile(Path(f"{n}.txt"), (Path(f"{n}.png"),), text, text.encode()) for n, text in enumerate(texts))
    return Captions(Path(), tuple(files))


def replaced(find: str, by: str, **more: object) -> ReplaceText:
    return ReplaceText(find=find, by=by, **more)


SMITH = MergeTags(tags="1boy, facial hair", into="Smith")
ANY = MergeTags(tags="1boy, facial hair", into="Smith", which="any")
REGEX = {"how": "regex"}


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        # replace
        (replaced("hat", "cap"), "red hat, that", "red cap, tcap"),
        (replaced("hat", "cap", how="tag"), "hat, red hat, that", "cap, red hat, that"),
        (replaced("hat", "cap"), "Hat", "cap"),
        (replaced("hat", "cap", match_case=True), "Hat,x", "Hat,x"),
        (replaced("hat", ""), "red, hat, blue", "red, blue"),  # no empty tag is left
        (replaced("hat", ""), "red  hat,  blue", "red  ,  blue"),  # other white space is unchanged
        (replaced("hat", "cap", how="tag"), "hat, solo, cap", "cap, solo"),  # no duplicate is created
        (replaced("hat", "cap", how="tag"), "cap, solo, hat", "cap, solo"),
        (replaced("hat", "cap, red", how="tag"), "a, hat, b", "a, cap, red, b"),
        (replaced("a.b", "x"), "a.b, acb", "x, acb"),  # not a regular expression
        (replaced(r"(\d)girls?", r"\1 women", **REGEX), "2girls, 1girl", "2 women, 1 women"),
        (replaced(r"\1", r"\\"), r"a\1", r"a\\"),
        (replaced("^", "zwx, ", **REGEX), "a\r\nb\n\nc", "zwx, a\r\nzwx, b\n\nzwx, c"),  # line by line
        # merge and rename
        (SMITH, "solo, 1boy, hat, facial hair", "solo, Smith, hat"),
        (SMITH, "facial hair,1BOY", "Smith"),
        (SMITH, "1boy,hat", "1boy,hat"),  # not all tags present: not even white space changes
        (ANY, "hat, facial hair", "hat, Smith"),
        (SMITH, "Smith, 1boy, facial hair", "Smith"),
        (SMITH, "1boy\nfacial hair", "1boy\nfacial hair"),  # two captions
        (MergeTags(tags="smith", into="Smith"), "smith, hat", "Smith, hat"),
        (MergeTags(tags="(red, soft:1.2)", into="red"), "a, (red, soft:1.2)", "a, red"),
        (MergeTags(tags=r"yua \(idol\)", into="zwx"), r"yua \(idol\), solo", "zwx, solo"),
        (MergeTags(tags="{a, b|c}", into="d"), "x, {a, b|c}", "x, d"),
        # add and remove
        (AddTags(tags="zwx, toy"), "solo, Toy", "zwx, solo, Toy"),
        (AddTags(tags="zwx", place="end"), "solo\r\n", "solo, zwx\r\n"),
        (AddTags(tags="zwx"), "", "zwx"),
        (AddTags(tags="zwx\ntoy,\r\nred"), "solo", "zwx, toy, red, solo"),
        (AddTags(tags="zwx"), " \n", "zwx"),
        (RemoveTags(tags="hat, solo"), "Hat, red hat, solo\n", "red hat\n"),
        (RemoveTags(tags="hat"), "hat", ""),
        # sort and tidy
        (SortTags(), "zwx, c, B, a", "zwx, a, B, c"),
        (SortTags(keep_first=0), "zwx, c, a", "a, c, zwx"),
        (SortTags(), "zwx", "zwx"),
        (TidyTags(), "a, b, A,c", "a, b, c"),
        (TidyTags(keep_duplicates=True), "a, a", "a, a"),
        (TidyTags(underscores="spaces"), "a_hat, ^_^, o_o, __hats__, x_(y)", "a hat, ^_^, o_o, __hats__, x_(y)"),
        (TidyTags(underscores="spaces"), "name_(film), facial hair, facial_hair", "name (film), facial hair"),
        (TidyTags(underscores="underscores"), "facial hair, {a, b|c d}", "facial_hair, {a, b|c d}"),
    ],
)  # fmt: skip
def test_edits(options, before, after):
    planned = plan_edit(folder_of(before), options, EditScope())
    assert [change.text for change in planned.changes] == ([after] if after != before else [])


def test_sorting_by_count_counts_the_whole_folder():
    captions = folder_of("zwx, a, b", "zwx, b", "zwx, c, a, b", "c")
    planned = plan_edit(captions, SortTags(order="count"), EditScope())
    assert [change.text for change in planned.changes] == ["zwx, b, a", "zwx, b, a, c"]


@pytest.mark.parametrize(
    ("scope", "changed"),
    [
        (EditScope(), 4),
        (EditScope(with_tags="Solo"), 3),
        (EditScope(with_tags="solo, hat"), 2),
        (EditScope(with_tags="solo", without_tags="hat, cap"), 0),
        (EditScope(without_tags="hat"), 2),
    ],
)
def test_scope(scope, changed):
    captions = folder_of("solo, hat", "hat, solo, cap", "solo, cap", "none")
    assert len(plan_edit(captions, AddTags(tags="zwx"), scope).changes) == changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replaced("(", "", **REGEX), "is not a valid regular expression: missing )"),
        (replaced("a", r"\2", **REGEX), "invalid group reference"),
        (replaced("", "x"), "Enter the text to search for"),
        (replaced(" , ", "x", how="tag"), "Enter the tag to search for"),
        (MergeTags(tags="a"), "Enter the tag to merge them into"),
        (AddTags(), "Enter the tags to add"),
        (RemoveTags(tags=","), "Enter the tags to remove"),
    ],
)
def test_invalid_options_are_reported(options, message):
    with pytest.raises(UserError) as refused:
        plan_edit(folder_of("a"), options, EditScope())
    assert message in str(refused.value)


def test_a_regular_expression_that_never_finishes_is_stopped(monkeypatch):
    monkeypatch.setattr("dreambooth.captions.edits.REGEX_TIMEOUT", 0.2)
    with pytest.raises(UserError, match="takes too long"):
        plan_edit(folder_of("a" * 60), replaced(r"(a|aa|a\w)+\d(?<=(.)\1)$", "x", **REGEX), EditScope())


def test_a_missing_tag_is_named():
    captions = folder_of("facial hair, solo")
    scope = EditScope(with_tags="sole")
    missing = plan_edit(captions, MergeTags(tags="1boy, facial hari", into="Smith"), scope).missing_tags
    assert [line.partition(":")[0] for line in missing] == ["1boy", "facial hari", "sole"]
    assert "did you mean facial hair?" in missing[1] and "did you mean solo?" in missing[2]


def test_find_matches():
    captions = folder_of("red hat", "that", "a, Hat")
    found = [len(find_matches(captions, replaced("hat", "", how=how), EditScope())) for how in ("text", "tag", "regex")]
    assert found == [3, 1, 3]


def test_a_typed_caption_keeps_the_line_ends():
    for before, typed, after in (
        ("a\r\nb\r\n", "x\ny\nz\n", "x\r\ny\r\nz\r\n"),
        ("a", "x\ny", "x\ny"),
        ("a\n", "", "\n"),
    ):
        [change] = plan_text(folder_of(before).files[0], typed).changes
        assert change.text == after


def test_read_as_training_reads_them(tmp_path):
    """For every extension, encoding and name; a file that is not text is reported and not changed."""
    for name in (
        "1.png",
        "2.jpg",
        "2.png",
        "2-masklabel.png",
        "sub/3.webp",
        "04_a_red-hat.png",
        "5.png",
        ".6.png",
        "7.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "1.txt").write_bytes("solo, café".encode("utf-16"))
    (tmp_path / "1.caption").write_text("not this one")
    (tmp_path / "2.txt").write_bytes("solo, 帽子, solo".encode("utf-8-sig"))
    (tmp_path / "sub" / "3.caption").write_bytes("solo, caf\xe9".encode("cp1252"))
    (tmp_path / "5.txt").write_bytes(b"no\0text")
    (tmp_path / "7.txt").mkdir()
    read = read_captions(tmp_path, CaptionSource())
    assert read.tag_counts() == {"solo": 4, "café": 2, "帽子": 2, "a red-hat": 1}
    assert (read.n_images, len(read.files)) == (5, 4)
    assert len(read.problems) == 2 and "5.txt: is not a text file" in read.problems[0] and "7.txt" in read.problems[1]
    changes = plan_edit(read, AddTags(tags="zwx"), EditScope()).changes
    side_effects = {change.file.path.name: change.side_effects for change in changes}
    assert side_effects == {
        "1.txt": ("written as UTF-8",),
        "2.txt": ("written as UTF-8",),
        "3.caption": ("written as UTF-8",),
        "04_a_red-hat.txt": ("new file",),
    }


def test_ten_thousand_captions(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.png").touch()
        (tmp_path / f"{number}.txt").write_text(f"all, half{number % 2}, own {number}")
    captions = read_captions(tmp_path, CaptionSource())
    counts = captions.tag_counts()
    assert list(counts.items())[:3] == [("all", 10_000), ("half0", 5_000), ("half1", 5_000)] and len(counts) == 10_003
    assert len(plan_edit(captions, SortTags(order="count"), EditScope()).changes) == 0
    merge, scope = MergeTags(tags="all, half1", into="x"), EditScope(without_tags="half0")
    assert len(plan_edit(captions, merge, scope).changes) == 5_000
