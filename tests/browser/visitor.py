"""A user of the page, standalone or in a WebUI: finds its parts in every Gradio, and waits for changes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

# Errors of Gradio itself: fonts that need a network, and requests that a reload aborts.
IGNORED = ("ERR_FAILED", "fonts.", "AbortError", "Connection errored out", "manifest.json")
EMBEDDED = "Embedded mini model"
TAB_IDS = {"Images": "pictures"}  # where the elem_id differs from the label
# Milliseconds. CI machines are slow and share their cores.
PATIENCE = int(os.environ.get("DREAMBOOTH_PATIENCE", "180")) * 1000


class Visitor:
    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1500, "height": 1100}, **options)
        self.page.set_default_timeout(PATIENCE)
        self.problems: list[str] = []
        self.page.on("console", lambda line: line.type == "error" and self._problem(line.text))
        self.page.on("pageerror", lambda error: self._problem(str(error), error.stack))
        self.url = url
        self.block_other_sites()
        self.page.goto(url)
        self.arrive()

    def block_other_sites(self) -> None:
        self.page.route("**/*", lambda route: route.continue_() if self.url in route.request.url else route.abort())

    def allow_uploads(self) -> None:
        """Until other sites are blocked again: Chromium at times holds up an upload that is intercepted."""
        self.page.unroute_all()

    def _problem(self, text: str, stack: str | None = None) -> None:
        if not any(part in text for part in IGNORED):
            self.problems.append(stack or text)

    def close(self) -> None:
        self.page.close()

    def tab(self, name: str) -> None:
        # Gradio 6 renders a second, covered row of buttons to measure them; only the real ones have an id.
        by_id = f"#db_tab_{TAB_IDS.get(name, name.lower())}-button"
        self.page.locator(f"{by_id}, #db_page .tab-nav button:text-is('{name}')").first.click()
        self.page.wait_for_timeout(200)

    def open_accordion(self, group: str) -> None:
        """Open an accordion, by its elem_id."""
        self.page.evaluate(
            "(id) => { const header = document.querySelector(`#${id} .label-wrap`);"
            " if (header && !header.classList.contains('open')) header.click(); }",
            group,
        )
        self.page.wait_for_timeout(200)

    def open_accordions(self) -> None:
        """Open every accordion of the visible tab, also nested ones."""
        opened = (
            "() => { const headers = [...document.querySelectorAll('#db_page .label-wrap:not(.open)')]"
            ".filter((header) => header.offsetParent); headers.forEach((header) => header.click());"
            " return headers.length }"
        )
        while self.page.evaluate(opened):
            self.page.wait_for_timeout(200)

    def field(self, key: str) -> Any:
        numbers = f"#db_{key} input[type=number]"
        return self.page.locator(f"{numbers}, #db_{key} textarea, #db_{key} input:not([type=range])").first

    def fill(self, **values: Any) -> None:
        for key, value in values.items():
            self.field(key).fill(str(value))
            self.field(key).press("Tab")

    def check(self, key: str, on: bool = True) -> None:
        self.page.locator(f"#db_{key} input[type=checkbox]").set_checked(on)

    def value(self, key: str) -> str:
        return self.field(key).input_value()

    def choose(self, key: str, option: str) -> None:
        from playwright.sync_api import TimeoutError  # not at the top: without Playwright these tests are skipped

        offered = f"#db_{key} [role=option], #db_{key} ul.options li"
        until, patience = time.monotonic() + PATIENCE / 1000, 3000
        while True:  # a page that scrolls to another field closes the list
            self.page.locator(f"#db_{key} input").first.click()
            try:
                self.page.locator(offered).filter(has_text=option).first.click(timeout=patience)
                break
            except TimeoutError:
                if time.monotonic() > until:
                    raise
                patience *= 2  # a busy machine takes longer to open it
                self.page.keyboard.press("Escape")
        self.page.wait_for_function(
            "([key, option]) => document.querySelector(`#db_${key} input`).value === option", arg=[key, option]
        )

    def press(self, name: str) -> None:
        self.page.wait_for_selector(f"#db_{name}:enabled").click()

    def cancel_job(self) -> None:
        """Cancel the job of a test that failed, which would lock the page for the tests after it."""
        if self.page.query_selector("#db_cancel:enabled"):
            self.press("cancel")
            self.page.wait_for_selector("#db_cancel:disabled")

    def sees(self, name: str, text: str) -> None:
        self.page.wait_for_function(
            "([name, text]) => document.querySelector(`#db_${name}`)?.innerText.includes(text)", arg=[name, text]
        )

    def sees_value(self, key: str, value: str) -> None:
        """A field gets this value."""
        self.page.wait_for_function(
            "([key, value]) => [...document.querySelectorAll(`#db_${key} input, #db_${key} textarea`)]"
            ".some((field) => field.value === value)",
            arg=[key, value],
        )

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#db_{name}")

    def sees_disabled(self, key: str, disabled: bool = True) -> None:
        """The setting is disabled (or not): for mouse and keyboard, and grayed out or, if locked, without colors."""
        self.page.wait_for_function(
            "([id, disabled]) => { const field = document.getElementById(id);"
            " const { opacity, filter } = field ? getComputedStyle(field) : {};"
            " const inert = field && [...field.children].some((part) => part.inert);"
            " return field && inert === disabled && (opacity < 1 || filter !== 'none') === disabled }",
            arg=[f"db_{key}", disabled],
        )

    def sees_in_view(self, *names: str) -> None:
        """These parts are within the window, and nothing but what contains them covers them, as of disabled ones."""
        self.page.wait_for_function(
            "(ids) => ids.every((id) => { const part = document.getElementById(id);"
            " const { left, top, width, height } = part?.getBoundingClientRect() || {};"
            " const shown = document.elementFromPoint(left + width / 2, top + Math.min(height / 2, 10));"
            " return shown && (part.contains(shown) || shown.contains(part)) })",
            arg=[f"db_{name}" for name in names],
        )

    def sees_no_error(self, name: str) -> None:
        self.page.wait_for_function(
            "(id) => [...document.querySelectorAll(`#${id} .db_problem`)].every((line) => !line.offsetParent)",
            arg=f"db_{name}",
        )

    def enabled(self, name: str) -> bool:
        return self.page.is_enabled(f"#db_{name}")

    def reload(self) -> None:
        self.page.reload()
        self.arrive()

    def arrive(self) -> None:
        """Wait until the page has polled once and its fields hold the parameters of its model.

        In a WebUI, it is one tab of many.
        """
        tab = self.page.locator("#tabs button:text-is('Dreambooth')")
        self.page.locator("#db_status").or_(tab).first.wait_for(state="attached")
        if tab.count():
            tab.first.click()
        self.page.wait_for_function("document.querySelector('#db_status')?.innerText.trim()")
        self.page.wait_for_function(
            "() => { const [name, filled] = ['model_name', 'filled'].map((key) =>"
            " document.querySelector(`#db_${key} input, #db_${key} textarea`)?.value); return name === filled }"
        )
        # A WebUI that is still loading turns back to its first tab.
        while tab.count() and not self.page.is_visible("#db_page"):
            tab.first.click()
            self.page.wait_for_timeout(500)

    def create(self, name: str, source: str = EMBEDDED) -> None:
        self.tab("Create")
        self.page.wait_for_function(
            "document.querySelector('#db_new_model_src input')?.value"
        )  # the dropdowns are filled
        if not self.value("new_model_src").startswith(source):  # a WebUI's own checkpoints come first
            self.choose("new_model_src", source)
        self.fill(new_model_name=name)
        self.press("create")
        self.sees("status", f"Created {name}")
        self.sees_value("filled", name)

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=str(path), full_page=True)
