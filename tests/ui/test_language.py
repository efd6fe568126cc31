"""Every text of the page has a translation in every catalogue."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("gradio")

import gradio as gr

from dreambooth.hosts import StandaloneHost
from dreambooth.ui import build
from dreambooth.ui.language import CHINESE, LOCALE, catalogue, catalogue_of

NO_WORDS = re.compile(r"[^a-zA-Z]*|.*\{ opacity: .*|Run", re.DOTALL)  # Run: Gradio's default text of a hidden button
PLACEHOLDER = re.compile(r"\{\w+\}")


class _Texts(HTMLParser):
    """The texts of HTML, without code: paths, keys, prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tag = tag

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""

    def handle_data(self, data: str) -> None:
        if self.tag != "code":
            self.texts.append(data.strip())


def texts_of(page) -> dict[str, str]:
    """The texts of a page that was just built, with the elem_id of a component that has it."""
    found = {}
    for block in page.blocks.values():
        texts = [getattr(block, name, None) for name in ("label", "info", "placeholder")]
        if isinstance(block, (gr.Button, gr.HTML)) and isinstance(block.value, str):
            parser = _Texts()
            parser.feed(block.value)
            texts += parser.texts
        found |= {text: block.elem_id for text in texts if isinstance(text, str) and not NO_WORDS.fullmatch(text)}
    return found


def is_translated(text: str, translations: dict[str, str]) -> bool:
    return text in translations or re.sub(r"\d+", "{n}", text) in translations


@pytest.mark.parametrize("language", [file.stem for file in LOCALE.glob("*.json")])
def test_every_label_help_title_and_button_is_translated(tmp_path, language):
    translations = catalogue(language)
    found = texts_of(build(StandaloneHost(tmp_path)))
    assert len(found) > 600
    missing = [f"{place}: {text}" for text, place in found.items() if not is_translated(text, translations)]
    assert not missing, f"add to dreambooth/locale/{language}.json:\n" + "\n".join(missing)


@pytest.mark.parametrize("language", [file.stem for file in LOCALE.glob("*.json")])
def test_translations_have_the_placeholders_of_their_texts(language):
    for text, translation in catalogue(language).items():
        assert translation.strip(), text
        assert set(PLACEHOLDER.findall(translation)) <= set(PLACEHOLDER.findall(text)), text
        assert len(PLACEHOLDER.findall(text)) == len(set(PLACEHOLDER.findall(text))), text


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("zh_CN", CHINESE), ("zh-Hans (Stable)", CHINESE), ("zh_TW", CHINESE), ("chinese-all-0313", CHINESE),
        ("zh: 中文", CHINESE), ("zh", CHINESE), ("zh-CN,zh;q=0.9,en;q=0.8", CHINESE),
        ("en-US,en;q=0.9,zh-CN;q=0.8", ""), ("en", ""), ("ja_JP", ""), ("ko_KR", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_catalogue_for_a_name(name, language):
    assert catalogue_of(name) == language
