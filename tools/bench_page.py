"""CPU load of an open page in the browser: fraction of time that it keeps a core busy.

    python tools/bench_page.py                    the Gradio of launch.py
    python tools/bench_page.py 3.41.2 4.40.0      those of the WebUIs, in environments of the browser tests

Measured in headless Chromium with a model selected and no job running: after loading the page, and after Save Params;
and the time to open the Concepts tab. Needs the requirements of `python launch.py test`, and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SETTLING, MEASURING = 25, 15  # seconds; after a click, the page polls more often for a while


def main(versions: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    from dreambooth import actions, embedded
    from dreambooth.settings import Folders
    from tests.browser.conftest import CHROMIUM, serving
    from tests.browser.gradios import python_with

    print("| Gradio | idle | after Save Params | opening Concepts |\n|---|---|---|---|")
    for version in versions or [""]:
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            actions.create(Folders(Path(folder) / "models"), "model", embedded.CHECKPOINT)
            with serving(Path(folder), python_with(version)) as served:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1600, "height": 1000})
                page.goto(served.url)
                page.wait_for_selector("#db_save_params:enabled")
                idle = _load(page)
                page.click("#db_save_params")
                page.wait_for_function("document.querySelector('#db_message')?.innerText.includes('Saved')")
                after = _load(page)
                opening = _seconds(page, lambda page=page: _open_concepts(page))
                browser.close()
        print(f"| {version or 'launch.py'} | {idle:.2f} | {after:.2f} | {opening:.2f} s |", flush=True)


def _load(page: Any) -> float:
    page.wait_for_timeout(SETTLING * 1000)
    return _seconds(page, lambda: page.wait_for_timeout(MEASURING * 1000)) / MEASURING


def _open_concepts(page: Any) -> None:
    page.locator("#db_tab_concepts-button, .tab-nav button", has_text="Concepts").first.click()
    page.wait_for_timeout(1000)


def _seconds(page: Any, action: Any) -> float:
    """CPU seconds of the page's main thread during ``action``."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    before = busy()
    action()
    return busy() - before


if __name__ == "__main__":
    main(sys.argv[1:])
