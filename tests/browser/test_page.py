"""The page alone, as a person uses it: create from the embedded model, train a few steps, see what came out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

EMBEDDED = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded"
# Gradio's own: fonts from a network that a test does not have, and requests that a reload cuts off.
NOISE = ("ERR_FAILED", "fonts.", "AbortError", "Connection errored out")
SETTINGS = {
    "use_lora": True,
    "resolution": 64,
    "num_train_epochs": 1,
    "max_train_steps": 2,
    "stop_text_encoder": 0,
    "save_preview_every": 0,
}


@pytest.fixture
def page(served, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    problems: list[str] = []
    page.on("console", lambda line: line.type == "error" and problems.append(line.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.real_problems = lambda: [line for line in problems if not any(noise in line for noise in NOISE)]
    page.route("**/*", lambda route: route.continue_() if served.url in route.request.url else route.abort())
    page.goto(served.url)
    page.wait_for_function("document.querySelector('#db_source input')?.value")  # the lists are there
    yield page
    page.close()


def wait_for_text(page, selector: str, text: str, seconds: int = 180) -> None:
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=seconds * 1000,
    )


def concepts(folder: Path) -> str:
    """The embedded concept with pictures of its own and one quick sample."""
    [concept] = json.loads((EMBEDDED / "concepts.json").read_text())
    shutil.copytree(EMBEDDED / concept["instance_data_dir"], folder)
    concept.update(instance_data_dir=str(folder), n_save_sample=1, save_infer_steps=4)
    return json.dumps([concept])


def create(page, name: str) -> None:
    page.fill("#db_new_model_name textarea, #db_new_model_name input", name)
    page.click("#db_create")
    page.wait_for_function(f"document.querySelector('#db_model_name input').value === '{name}'", timeout=180_000)
    # its fields are on the page: from here on nothing overwrites what is typed
    page.wait_for_function("document.querySelector('#db_concepts_json textarea').value === '[]'")
    wait_for_text(page, "#db_facts", "mini-sd.safetensors")


def fill(page, settings: dict, concepts: str) -> None:
    page.fill("#db_settings_json textarea", json.dumps(settings))
    page.fill("#db_concepts_json textarea", concepts)


def test_create_train_and_reload(page, served, tmp_path):
    """Create, train, samples and files; a reloaded page shows the same run, and bad input gets a line."""
    create(page, "my-toy")
    assert (served.models / "dreambooth" / "my-toy" / "db_config.json").exists()

    page.fill("#db_settings_json textarea", json.dumps({"learning_rat": 1}))
    page.click("#db_save_params")
    wait_for_text(page, "#db_message", "did you mean learning_rate")

    fill(page, SETTINGS, concepts(tmp_path / "pictures"))
    page.click("#db_train")
    wait_for_text(page, "#db_status", "Training is done")
    page.wait_for_selector("#db_gallery img")
    wait_for_text(page, "#db_files", ".safetensors")
    assert list((served.models / "Lora").rglob("*.safetensors"))

    page.reload()
    wait_for_text(page, "#db_status", "Training is done")
    page.wait_for_selector("#db_gallery img")
    assert page.input_value("#db_model_name input") == "my-toy"
    wait_for_text(page, "#db_facts", "revision 2")
    assert json.loads(page.input_value("#db_settings_json textarea")).items() >= {"max_train_steps": 2}.items()
    assert not page.real_problems()


def test_pause_resume_cancel_and_generate(page, served, tmp_path):
    """A run obeys the buttons; what was cancelled is said; a checkpoint is written; one job at a time."""
    create(page, "my-other-toy")
    fill(page, {**SETTINGS, "num_train_epochs": 10_000, "max_train_steps": 0}, concepts(tmp_path / "pictures"))
    page.click("#db_train")
    wait_for_text(page, "#db_status", "Step ")
    assert page.is_disabled("#db_train") and page.is_disabled("#db_create") and page.is_enabled("#db_cancel")
    page.click("#db_pause")
    wait_for_text(page, "#db_status", "Paused.")
    wait_for_text(page, "#db_pause", "Resume")
    page.click("#db_sample_now")
    page.wait_for_selector("#db_gallery img", timeout=180_000)
    page.click("#db_pause")
    wait_for_text(page, "#db_pause", "Pause")
    page.click("#db_cancel")
    wait_for_text(page, "#db_status", "Training was cancelled")
    wait_for_text(page, "#db_pause", "Pause")

    page.wait_for_selector("#db_generate_ckpt:enabled")
    page.click("#db_generate_ckpt")
    wait_for_text(page, "#db_files", "Stable-diffusion")
    assert list((served.models / "Stable-diffusion").rglob("*.safetensors"))
    assert not page.real_problems()


def test_the_browsers_title_tells_how_far_a_run_is(page):
    page.evaluate("document.querySelector('#db_status').innerHTML = '<progress value=0.41></progress>'")
    page.wait_for_function("document.title.startsWith('[Dreambooth 41%] ')")
    page.evaluate("document.querySelector('#db_status').innerHTML = ''")
    page.wait_for_function("!document.title.includes('41%')")
