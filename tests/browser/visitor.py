"""A person at the page, alone or in a WebUI: knows where things are in every Gradio, and waits as people do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Gradio's own: fonts from a network that a test does not have, and requests that a reload cuts off.
NOISE = ("ERR_FAILED", "fonts.", "AbortError", "Connection errored out", "manifest.json")
EMBEDDED = "Embedded mini model"
# Milliseconds: CI machines are slow, and share their cores.
PATIENCE = int(os.environ.get("DREAMBOOTH_PATIENCE", "180")) * 1000


class Visitor:
    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1500, "height": 1100}, **options)
        self.page.set_default_timeout(PATIENCE)
        self.problems: list[str] = []
        self.page.on("console", lambda line: line.type == "error" and self._problem(line.text))
        self.page.on("pageerror", lambda error: self._problem(str(error), error.stack))
        self.page.route("**/*", lambda route: route.continue_() if url in route.request.url else route.abort())
        self.page.goto(url)
        self.arrive()

    def _problem(self, text: str, stack: str | None = None) -> None:
        if not any(noise in text for noise in NOISE):
            self.problems.append(stack or text)

    def close(self) -> None:
        self.page.close()

    def tab(self, name: str) -> None:
        # Gradio 6 draws a second, covered row of buttons to measure them; only the real ones have an id.
        by_id = f"#db_tab_{name.lower()}-button"
        self.page.locator(f"{by_id}, #db_page .tab-nav button:text-is('{name}')").first.click()
        self.page.wait_for_timeout(200)

    def unfold(self, group: str) -> None:
        """Open an accordion, by its elem_id."""
        self.page.evaluate(
            "(id) => { const fold = document.querySelector(`#${id} .label-wrap`);"
            " if (fold && !fold.classList.contains('open')) fold.click(); }",
            group,
        )
        self.page.wait_for_timeout(200)

    def unfold_all(self) -> None:
        """Open every accordion of the tab that is shown, also those within others."""
        opened = (
            "() => { const folds = [...document.querySelectorAll('#db_page .label-wrap:not(.open)')]"
            ".filter((fold) => fold.offsetParent); folds.forEach((fold) => fold.click()); return folds.length }"
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
        self.page.locator(f"#db_{key} input").first.click()
        offered = f"#db_{key} [role=option], #db_{key} ul.options li"
        self.page.locator(offered).filter(has_text=option).first.click()
        self.page.wait_for_function(
            "([key, option]) => document.querySelector(`#db_${key} input`).value === option", arg=[key, option]
        )

    def press(self, name: str) -> None:
        self.page.wait_for_selector(f"#db_{name}:enabled").click()

    def sees(self, name: str, text: str) -> None:
        self.page.wait_for_function(
            "([name, text]) => document.querySelector(`#db_${name}`)?.innerText.includes(text)", arg=[name, text]
        )

    def sees_value(self, key: str, value: str) -> None:
        """Some field comes to hold ``value``."""
        self.page.wait_for_function(
            "([key, value]) => [...document.querySelectorAll(`#db_${key} input, #db_${key} textarea`)]"
            ".some((field) => field.value === value)",
            arg=[key, value],
        )

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#db_{name}")

    def sees_greyed(self, key: str, greyed: bool = True) -> None:
        """The setting can't be used (or can): out of reach for mouse and keyboard, and it looks like it."""
        self.page.wait_for_function(
            "([id, greyed]) => { const field = document.getElementById(id);"
            " return field && field.inert === greyed && getComputedStyle(field).opacity < 1 === greyed }",
            arg=[f"db_{key}", greyed],
        )

    def enabled(self, name: str) -> bool:
        return self.page.is_enabled(f"#db_{name}")

    def reload(self) -> None:
        self.page.reload()
        self.arrive()

    def arrive(self) -> None:
        """The page has looked at the server for the first time, and its fields hold the parameters of its model.

        In a WebUI it is one tab of many.
        """
        ours = self.page.locator("#tabs button:text-is('Dreambooth')")
        self.page.locator("#db_status").or_(ours).first.wait_for(state="attached")
        if ours.count():
            ours.first.click()
        self.page.wait_for_function("document.querySelector('#db_status')?.innerText.trim()")
        self.page.wait_for_function(
            "() => { const [name, filled] = ['model_name', 'filled'].map((key) =>"
            " document.querySelector(`#db_${key} input, #db_${key} textarea`)?.value); return name === filled }"
        )

    def create(self, name: str) -> None:
        self.tab("Create")
        self.page.wait_for_function("document.querySelector('#db_new_model_src input')?.value")  # the lists are there
        if not self.value("new_model_src").startswith(EMBEDDED):  # a WebUI's own checkpoints come first
            self.choose("new_model_src", EMBEDDED)
        self.fill(new_model_name=name)
        self.press("create")
        self.sees("status", f"Created {name}")
        self.sees_value("filled", name)

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=str(path), full_page=True)
