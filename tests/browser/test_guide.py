"""The user guide's first LoRA, step by step; its screenshots are made with DREAMBOOTH_SCREENSHOTS=docs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.browser.visitor import Visitor

ROOT = Path(__file__).resolve().parents[2]
SUBJECT = ROOT / "dreambooth" / "embedded" / "subject"
SCREENSHOTS = os.environ.get("DREAMBOOTH_SCREENSHOTS", "")

# Temporary folders of the test, in texts and fields, under names that a user would have.
RENAME = """(names) => {
    const renamed = (text) => names.reduce((text, [folder, name]) => text.split(folder).join(name), text);
    const walker = document.createTreeWalker(document.querySelector("#db_page"), NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        if (renamed(node.data) !== node.data) node.data = renamed(node.data);
    for (const field of document.querySelectorAll("#db_page input, #db_page textarea"))
        if (renamed(field.value) !== field.value) field.value = renamed(field.value) }"""


@pytest.mark.skipif(not SCREENSHOTS, reason="makes the guide's screenshots: set DREAMBOOTH_SCREENSHOTS to their folder")
def test_the_first_lora_of_the_guide(served, browser, tmp_path):
    visitor = Visitor(browser, served.url)
    images = Path(shutil.copytree(SUBJECT, tmp_path / "my-toy"))

    def screenshot(name: str) -> None:
        visitor.page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")  # closes an opened list
        visitor.page.wait_for_timeout(1000)
        folders = {images: "/photos/my-toy", served.models: "/webui/models", ROOT: "/webui/extensions/dreambooth"}
        visitor.page.evaluate(RENAME, [[str(folder), name] for folder, name in folders.items()])
        visitor.page.screenshot(path=str(ROOT / SCREENSHOTS / f"guide-{name}.png"))

    visitor.page.set_viewport_size({"width": 1400, "height": 820})
    visitor.tab("Create")
    visitor.fill(new_model_name="my toy")
    screenshot("create")
    visitor.create("my toy")

    visitor.tab("Settings")
    visitor.check("use_lora")
    visitor.open_accordion("db_group_settings_image_processing")
    visitor.fill(resolution=128, num_train_epochs=60, save_preview_every=10)
    visitor.tab("Concepts")
    visitor.open_accordion("db_c1")
    visitor.open_accordions()
    visitor.fill(c1_instance_data_dir=images, c1_instance_token="zwx", c1_class_token="toy", c1_n_save_sample=2)
    visitor.fill(c1_save_sample_prompt="a zwx toy on a blue background")
    visitor.press("check")
    visitor.sees("message", "Ready to train.")
    screenshot("concepts")

    visitor.tab("Images")
    visitor.fill(pictures_folder=images)
    visitor.press("look")
    visitor.page.wait_for_selector("#db_look_gallery img")
    screenshot("images")

    visitor.press("train")
    visitor.sees("status", "Training finished")
    visitor.page.wait_for_selector("#db_gallery img")
    screenshot("trained")
    visitor.close()
