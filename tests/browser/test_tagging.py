"""The Auto-caption form in the browser, with every Gradio: trial, then captions for all images."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth.settings.tagging import TAG_OPTIONS
from tests.captioning import tiny_models


@pytest.fixture
def folder(served, tmp_path):
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library)
    tiny_models.onnx_tagger(served.models / "taggers" / "wd-tiny")
    for name, colour in (("one", "red"), ("two", "blue"), ("three", "red")):
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "three.txt").write_text("mine")
    return tmp_path


def test_trial_then_captions_for_all(folder, visitor, tmp_path_factory):
    """``folder`` comes first, so that the page lists the tagger when it opens."""
    visitor.tab("Images")
    visitor.page.wait_for_selector("#db_tag_form .label-wrap", state="visible")  # some Gradios render it only now
    visitor.open_accordion("db_tag_form")
    visitor.press("tag_try")
    visitor.sees("tag_said", "Enter the folder with the images")
    visitor.tab("Images")  # on a slow machine, the page may turn to its initial tab late
    visitor.fill(pictures_folder=folder)
    visitor.choose("tag_model", "taggers/wd-tiny")
    visitor.open_accordions()
    assert {f"db_tag_{key}" for key in TAG_OPTIONS} <= set(
        visitor.page.evaluate("[...document.querySelectorAll('[id^=db_tag_]')].map((e) => e.id)")
    )
    visitor.fill(tag_general_threshold=0.6, tag_trigger_word="zwx", tag_excluded_tags="^_^")
    visitor.press("tag_try")
    tried = "['zwx, blue picture', 'pip install onnxruntime'].some((text) => document.body.innerText.includes(text))"
    visitor.page.wait_for_function(tried)
    if "pip install onnxruntime" in visitor.text("status"):
        pytest.skip("this WebUI's environment has no onnxruntime, and the page says how to get it")
    visitor.sees("tag_made", "zwx, blue picture")
    visitor.sees("tag_made", "red_picture 100%")
    visitor.page.wait_for_function(
        "[...document.querySelectorAll('#db_tag_made img')].filter((img) => img.naturalWidth === 30).length === 3"
    )
    visitor.sees("status", "nothing was written")
    assert [path.name for path in folder.glob("*.txt")] == ["three.txt"]
    visitor.screenshot(tmp_path_factory.mktemp("screen") / "tried.png")

    visitor.choose("tag_existing", "append")
    visitor.press("tag_all")
    visitor.sees("status", "3 captions written")
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == {
        "one.txt": "zwx, red picture", "two.txt": "zwx, blue picture", "three.txt": "zwx, mine, red picture",
    }  # fmt: skip
    assert not visitor.problems
