"""What the page's script adds to the chart and the result of a run: rendered by the page's code, in a real browser."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from dreambooth.ui import render
from dreambooth.ui.chart import loss_chart
from dreambooth.ui.run_view import RunView

ROOT = Path(__file__).resolve().parents[2]


def long_run() -> RunView:
    """100,000 steps, with a validation loss in the middle."""
    run = RunView()
    for step in range(1, 100_001):
        run.feed({"kind": "step", "step": step, "total": 100_000, "epoch": 0, "epochs": 1, "seconds": 0.1,
                  "loss": 0.2 if step < 50_000 else 0.1, "prior_loss": None, "lr": 1e-4})  # fmt: skip
    run.feed({"kind": "validation", "step": 50_000, "loss": 0.15})
    run.feed({"kind": "saved", "what": "lora", "path": "/models/Lora/toy & dog.safetensors"})
    return run.feed_all([{"kind": "ended", "state": "done"}])


@pytest.fixture(scope="module")
def parts() -> str:
    run = long_run()
    chart = loss_chart(run)
    assert len(chart) < 60_000  # sent at each refresh, however long the run
    return f'<div id="db_loss_chart">{chart}</div>{render.status(run.status_line(), run.state, "", run.result())}'


def opened(browser, parts: str, prompt: str, scheme: str):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 700, "height": 420})
    style = (ROOT / "style.css").read_text(encoding="utf-8")
    page.set_content(
        f"<style>:root {{ color-scheme: light dark }} {style}</style><div id='db_page'>{parts}</div>{prompt}"
    )
    for script in ("dreambooth.js", "dreambooth_chart.js"):
        page.add_script_tag(path=ROOT / "javascript" / script)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_chart_shows_values_under_the_pointer(browser, parts, scheme, tmp_path):
    page = opened(browser, parts, "", scheme)
    area = page.locator(".db_chart").bounding_box()

    def values_at(fraction: float) -> list[str]:
        x = area["x"] + area["width"] * (46 + fraction * (640 - 46 - 58)) / 640
        page.mouse.move(x, area["y"] + area["height"] / 2)
        return page.locator("#db_chart_values span").all_inner_texts()

    early, middle, late = values_at(0.25), values_at(0.5), values_at(1)
    page.screenshot(path=tmp_path / f"chart_{scheme}.png")
    number = [float(shown[1].removeprefix("loss ")) for shown in (early, late)]
    assert number == pytest.approx([0.2, 0.1], rel=0.05)
    assert early[2] == "learning rate 0.000100" and len(early) == 3
    assert middle[2] == "validation 0.150"
    page.mouse.move(5, area["y"] + area["height"] + 150)
    assert not page.locator("#db_chart_values").count()
    page.close()


def test_a_lora_is_added_once_to_the_prompt_of_a_webui(browser, parts):
    page = opened(browser, parts, "<div id='txt2img_prompt'><textarea>a dog</textarea></div>", "light")
    page.evaluate("document.addEventListener('input', (event) => window.heard = event.target.value)")
    for _ in range(2):
        page.locator(".db_add_tag").click()
    tag = "<lora:toy & dog:1>"
    assert page.locator("#txt2img_prompt textarea").input_value() == f"a dog {tag}"
    assert page.evaluate("window.heard") == f"a dog {tag}"
    assert html.escape(tag) in parts
    page.close()


def test_without_a_webui_nothing_offers_its_prompt(browser, parts):
    page = opened(browser, parts, "", "light")
    page.wait_for_timeout(1500)
    assert not page.locator(".db_add_tag").is_visible()
    page.close()
