"""What the page costs the browser that has it open: the share of the time in which it keeps a core busy.

    python tools/bench_page.py                    the Gradio of launch.py
    python tools/bench_page.py 3.41.2 4.40.0      those of the WebUIs, in environments that the browser tests make

Measured in headless Chromium at rest, a model chosen: after the page has arrived, and again once its parameters were
saved; and what turning to the tab Concepts takes. Needs what `python launch.py test` installs, and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SETTLES, WATCHED = 25, 15  # seconds; the page looks at the server often for a while after a click


def main(versions: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    from dreambooth import actions, embedded
    from dreambooth.settings import Folders
    from tests.browser.conftest import CHROMIUM, serving
    from tests.browser.gradios import python_with

    print("| Gradio | at rest | after Save Params | to Concepts |\n|---|---|---|---|")
    for version in versions or [""]:
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            actions.create(Folders(Path(folder) / "models"), "model", embedded.CHECKPOINT)
            with serving(Path(folder), python_with(version)) as served:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1600, "height": 1000})
                page.goto(served.url)
                page.wait_for_selector("#db_save_params:enabled")
                at_rest = _share(page)
                page.click("#db_save_params")
                page.wait_for_function("document.querySelector('#db_message')?.innerText.includes('Saved')")
                after = _share(page)
                turned = _seconds(page, lambda page=page: _turn(page))
                browser.close()
        print(f"| {version or 'of launch.py'} | {at_rest:.2f} | {after:.2f} | {turned:.2f} s |", flush=True)


def _share(page: Any) -> float:
    page.wait_for_timeout(SETTLES * 1000)
    return _seconds(page, lambda: page.wait_for_timeout(WATCHED * 1000)) / WATCHED


def _turn(page: Any) -> None:
    page.locator("#db_tab_concepts-button, .tab-nav button", has_text="Concepts").first.click()
    page.wait_for_timeout(1000)


def _seconds(page: Any, what: Any) -> float:
    """Of work on the page's main thread meanwhile."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    before = busy()
    what()
    return busy() - before


if __name__ == "__main__":
    main(sys.argv[1:])
