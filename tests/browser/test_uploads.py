"""Images by drag and drop and paste, in every Gradio: from files on the user's disk to a training run."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.browser.visitor import Visitor
from tests.images.odd_images import encoded, noise

SUBJECT = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded" / "subject"
TRANSFER = """(files) => { const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  return transfer }"""


def transfer(visitor: Visitor, files: dict[str, bytes], kind: str = "image/png"):
    """The files as the browser's object for drag and drop, and for the clipboard."""
    data = [(name, kind, base64.b64encode(content).decode()) for name, content in files.items()]
    return visitor.page.evaluate_handle(TRANSFER, data)


def drop(visitor: Visitor, files: dict[str, bytes]) -> None:
    visitor.page.wait_for_selector("#db_upload_files input[type=file]", state="attached")
    area = visitor.page.locator("#db_upload_files input[type=file]").locator("..")
    dragged = transfer(visitor, files)
    visitor.allow_uploads()
    for event in ("dragenter", "dragover", "drop"):
        area.dispatch_event(event, {"dataTransfer": dragged})


def paste(visitor: Visitor, name: str, image: bytes) -> None:
    visitor.page.evaluate(
        "(clipboardData) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }))",
        transfer(visitor, {name: image}),
    )


def number_of_images(visitor: Visitor) -> int:
    return visitor.page.locator("#db_upload_images img:visible").count()


def sees_images(visitor: Visitor, n: int) -> None:
    visitor.page.wait_for_function(
        "(n) => [...document.querySelectorAll('#db_upload_images img')].filter((i) => i.offsetParent).length === n",
        arg=n,
    )


def test_from_dropped_files_to_a_run(served, visitor, tmp_path):
    visitor.create("dropped")
    visitor.tab("Concepts")
    visitor.fill(upload_instance_token="zwx", upload_class_token="toy")
    pictures = {f"photo {n}.png": encoded(noise(n, (128, 128)), "PNG") for n in range(6)}
    folder = served.models / "dreambooth" / "dropped" / "images"
    drop(visitor, pictures | {"letter.pdf": b"%PDF-1.4", "cut off.png": pictures["photo 0.png"][:300]})
    visitor.sees("upload_said", "Added 6 images to dropped.")
    visitor.sees("upload_said", "letter.pdf: is a document")
    visitor.sees("upload_said", "is truncated")
    sees_images(visitor, 6)
    assert len(list(folder.glob("*.png"))) == 6
    visitor.sees_value("c1_instance_data_dir", str(folder))
    visitor.sees_value("c1_instance_token", "zwx")
    visitor.sees_value("c1_class_token", "toy")
    assert not visitor.page.is_visible("#db_upload_pages")

    visitor.fill(upload_caption_1="a photo of a zwx toy on a table")
    visitor.sees("upload_said", "Saved the caption of")
    [caption] = folder.glob("*.txt")
    assert caption.read_text() == "a photo of a zwx toy on a table\n" and caption.with_suffix(".png").exists()
    visitor.screenshot(tmp_path / "dropped.png")

    paste(visitor, "image.png", encoded(noise(7), "PNG"))
    sees_images(visitor, 7)
    visitor.press("upload_remove_1")
    visitor.sees("upload_said", "Removed")
    sees_images(visitor, 6)
    visitor.fill(upload_class_token="toy car")
    visitor.sees_value("c1_class_token", "toy car")

    visitor.block_other_sites()
    visitor.reload()
    visitor.choose("model_name", "dropped")
    visitor.sees_value("filled", "dropped")
    visitor.tab("Concepts")
    sees_images(visitor, 6)
    visitor.sees_value("upload_instance_token", "zwx")
    visitor.press("check")
    visitor.sees("message", "Ready to train")
    visitor.sees("forecast", "6 images")
    [concept] = json.loads((folder.parent / "db_config.json").read_text())["concepts_list"]
    assert concept["instance_data_dir"] == str(folder) and concept["class_token"] == "toy"
    visitor.tab("Settings")
    visitor.fill(num_train_epochs=10)  # 30 steps, more than the demo's warm-up
    visitor.press("train")
    visitor.page.wait_for_selector("#db_files [data-db-saved$='.safetensors']", state="attached")
    assert not visitor.problems


def test_pages_appear_with_the_thirteenth_image(served, visitor):
    visitor.create("many")
    visitor.tab("Concepts")
    drop(visitor, {f"{n}.png": encoded(noise(n), "PNG") for n in range(14)})
    sees_images(visitor, 12)
    visitor.sees("upload_where", "1 to 12 of 14 images")
    visitor.press("upload_forward")
    sees_images(visitor, 2)
    assert not visitor.problems
