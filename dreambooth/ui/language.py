"""The language of the page: its texts are English, and the browser replaces them by those of a catalogue.

A catalogue, ``dreambooth/locale/LANGUAGE.json``, maps English texts to translations. A text with placeholders is a
template: {n} stands for a number, {t} and {u} for texts that are translated too, any other name for what stays as it
is, such as a path. The server sends the catalogue to browsers that need it, and javascript/dreambooth_language.js
applies it within the tab. A localization file of the WebUI would not do: the WebUI merges the files of all extensions,
and applies the result to all tabs.
"""

from __future__ import annotations

import functools
import html
import json
import re
from pathlib import Path

import gradio as gr

from dreambooth.ui.gradio_versions import control, on

LOCALE = Path(__file__).resolve().parent.parent / "locale"
CHINESE = "zh_CN"
_CHINESE_NAMES = re.compile(r"(^|[^a-z])zh([^a-z]|$)|chinese|中文|汉|漢", re.IGNORECASE)


class PageLanguage:
    """Sends the catalogue of the page's language to each browser that opens the page.

    ``name``: the chosen language or localization, in any spelling. Empty: that of the browser.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def add(self, page: gr.Blocks) -> None:
        """Create the hidden part that holds the catalogue."""
        part = control(gr.HTML, elem_id="db_language", elem_classes=["db_hidden"])
        on(page.load, self._catalogue, outputs=part)

    def _catalogue(self, request: gr.Request) -> str:
        language = catalogue_of(self.name or request.headers.get("accept-language") or "")
        return f'<pre lang="{language.replace("_", "-")}">{html.escape(_text(language))}</pre>' if language else ""


def catalogue_of(name: str) -> str:
    """The catalogue for a language, a localization of a WebUI, or an Accept-Language header; "" for English."""
    preferred = name.partition(",")[0]
    return CHINESE if _CHINESE_NAMES.search(preferred) else ""


def catalogue(language: str) -> dict[str, str]:
    """Translations by English text."""
    return json.loads(_text(language))


@functools.cache
def _text(language: str) -> str:
    return (LOCALE / f"{language}.json").read_text(encoding="utf-8")
