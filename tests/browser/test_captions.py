"""The Captions form in the browser, with every Gradio: counts, replace, merge, sort, edit one, undo, redo."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dreambooth.settings.caption_edits import EDIT_SCOPE
from dreambooth.ui.captions_form import EDITS
from tests.browser.visitor import Visitor

SUBJECT = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded" / "subject"
WRITTEN = {
    "1": "solo, 1boy, facial hair, hat",
    "2": "1boy, facial hair, red hat",
    "3": "1boy, hat, <b>bold</b>",
    "4": "hat, ahat",
}


@pytest.fixture
def images(tmp_path) -> Path:
    """Four images with captions, one with an empty one, one without."""
    folder = Path(shutil.copytree(SUBJECT, tmp_path / "images"))
    for name, text in WRITTEN.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "5.txt").write_text("")
    (folder / "6.txt").unlink()
    return folder


def captions(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}


def arrive(visitor: Visitor, folder: Path) -> None:
    visitor.tab("Images")
    visitor.fill(pictures_folder=folder)
    visitor.page.wait_for_selector("#db_captions_form .label-wrap", state="visible")  # some Gradios render it only now
    visitor.open_accordion("db_captions_form")
    visitor.press("captions_show")
    visitor.sees("captions_said", "6 images, 5 caption files")


def edit(visitor: Visitor, name: str) -> None:
    """Open the tab of an edit."""
    title = EDITS[name][0]
    by_id, by_title = f"#db_tab_captions_{name}-button", f"#db_page .tab-nav button:text-is('{title}')"
    visitor.page.locator(f"{by_id}, {by_title}").first.click()
    visitor.page.wait_for_selector(f"#db_captions_preview_{name}", state="visible")


def change(visitor: Visitor, name: str, files: int) -> None:
    """Preview an edit and carry it out."""
    visitor.press(f"captions_preview_{name}")
    apply(visitor, files)


def apply(visitor: Visitor, files: int) -> None:
    """Carry out the previewed edit."""
    visitor.sees("captions_apply", f"Change {files} file")
    visitor.press("captions_apply")
    visitor.sees("captions_said", f"Changed {files} file")


def select(visitor: Visitor, tag: str) -> None:
    visitor.page.locator(f"#db_captions_tags .db_tag[data-db-value='{tag}']").click()


def test_from_counts_to_undo(served, visitor, images, tmp_path):
    before = captions(images)
    arrive(visitor, images)
    visitor.sees("captions_tags", "1boy 3")
    visitor.sees("captions_tags", "<b>bold</b> 1")  # as text
    visitor.fill(captions_part="hat")
    visitor.page.wait_for_function("document.querySelectorAll('#db_captions_tags .db_tag').length === 3")
    visitor.fill(captions_part="")

    select(visitor, "1boy")
    select(visitor, "facial hair")
    visitor.sees("captions_pictures", "2 of 6 images")
    edit(visitor, "merge")
    visitor.sees_value("captions_merge_tags", "1boy, facial hair")
    visitor.fill(captions_merge_into="Smith")
    visitor.press("captions_preview_merge")
    visitor.sees("captions_preview", "2 files would change")
    visitor.screenshot(tmp_path / "merge.png")
    assert captions(images) == before
    apply(visitor, 2)
    assert captions(images) == before | {"1": "solo, Smith, hat", "2": "Smith, red hat"}

    edit(visitor, "replace")
    visitor.fill(captions_replace_find="hat", captions_replace_by="cap")
    visitor.press("captions_find")
    visitor.sees("captions_said", "Found in 4 images")
    visitor.sees("captions_pictures", "4 of 6 images")
    change(visitor, "replace", 4)
    assert captions(images)["4"] == "cap, acap"
    edit(visitor, "sort")
    visitor.fill(captions_sort_keep_first=0)
    change(visitor, "sort", 4)
    assert captions(images)["1"] == "cap, Smith, solo" and captions(images)["4"] == "acap, cap"

    visitor.page.click("#db_captions_pictures [data-db-pick=all]")
    visitor.page.click("#db_captions_pictures [data-db-pick=open]:has-text('6.png')")
    visitor.sees("captions_opened", "new file")
    visitor.fill(captions_text="by hand, 帽子\nsecond line")
    visitor.press("captions_back")  # saves what was changed
    visitor.sees("captions_opened", "5.png")
    assert captions(images)["6"] == "by hand, 帽子\nsecond line"
    visitor.sees("captions_undo", "Undo: edit 6.txt (1)")
    visitor.screenshot(tmp_path / "opened.png")

    for edited in ("edit 6.txt", "sort tags by name", "replace hat with cap"):
        visitor.press("captions_undo")
        visitor.sees("captions_said", f"Undone in 1 file: {edited}" if "edit" in edited else f": {edited}")
    assert captions(images) == before | {"1": "solo, Smith, hat", "2": "Smith, red hat"}
    visitor.press("captions_redo")
    visitor.sees("captions_said", "Redone in 4 files: replace hat with cap")
    assert captions(images)["4"] == "cap, acap"
    assert not visitor.problems


def test_changes_by_others_are_shown_and_kept(served, browser, visitor, images):
    arrive(visitor, images)
    visitor.page.click("#db_captions_pictures [data-db-pick=open] >> nth=0")
    visitor.sees_value("captions_text", WRITTEN["1"])
    edit(visitor, "add")
    visitor.fill(captions_add_tags="zwx")
    visitor.press("captions_preview_add")
    visitor.sees("captions_apply", "Change 6 files")
    (images / "1.txt").write_text("from elsewhere", encoding="utf-8")
    visitor.press("captions_apply")
    visitor.sees("captions_said", "1.txt changed since the preview")
    assert captions(images)["2"] == WRITTEN["2"]
    visitor.fill(captions_text="mine")
    visitor.press("captions_save")
    visitor.sees("captions_said", "now contains: from elsewhere.")
    visitor.sees_value("captions_text", "mine")
    assert captions(images)["1"] == "from elsewhere"
    visitor.press("captions_save")
    visitor.sees("captions_undo", "Undo: edit 1.txt")
    assert captions(images)["1"] == "mine"

    second = Visitor(browser, served.url)
    arrive(second, images)
    edit(second, "remove")
    second.fill(captions_remove_tags="hat")
    change(second, "remove", 2)
    visitor.press("captions_undo")
    visitor.sees("captions_said", "edited elsewhere in the meantime")
    visitor.sees("captions_undo", "Undo: remove hat")
    visitor.press("captions_undo")
    visitor.sees("captions_said", "Undone in 2 files: remove hat")
    second.close()
    edit(visitor, "replace")
    visitor.fill(captions_replace_find="(")
    visitor.choose("captions_replace_how", "regex")
    visitor.press("captions_preview_replace")
    visitor.sees("captions_said", "is not a valid regular expression")
    assert not visitor.problems


def test_every_option_has_its_control(onlooker):
    onlooker.tab("Images")
    onlooker.open_accordions()
    ids = set()
    for name in EDITS:
        edit(onlooker, name)
        ids |= set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    assert {f"db_captions_{name}_{key}" for name, (_, declared, _) in EDITS.items() for key in declared} <= ids
    assert {f"db_captions_scope_{key}" for key in EDIT_SCOPE} <= ids
