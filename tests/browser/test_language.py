"""The page in Chinese, in the browser: chosen by its language, kept while the page changes."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import WEBUI
from tests.browser.visitor import Visitor

# Sentences of the visible page that are still English. What users typed and the choices of lists are left out.
LEFT_IN_ENGLISH = """() => {
    const walker = document.createTreeWalker(document.querySelector("#db_page"), NodeFilter.SHOW_TEXT), texts = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const skipped = node.parentElement.closest("style, script, code, textarea, option, ul, [translate=no]");
        if (skipped || !node.parentElement.offsetParent || /[\\u4e00-\\u9fff]/.test(node.data)) continue;
        texts.push(node.data.trim());
    }
    return texts.filter((text) => / [a-z]/.test(text)) }"""


@pytest.fixture
def reader(served, browser):
    """A visitor whose browser is in Chinese; a WebUI's own setting would count instead."""
    if WEBUI:
        pytest.skip("the language is that of the WebUI")
    visitor = Visitor(browser, served.url, locale="zh-CN")
    visitor.page.wait_for_function("document.querySelector('#db_page').lang === 'zh-CN'")
    yield visitor
    visitor.close()


def open_tab(visitor: Visitor, name: str) -> None:
    visitor.page.evaluate(
        "(name) => { const tab = document.querySelector(`#db_tab_${name}:not(button)`);"
        " const number = tab ? [...tab.parentElement.querySelectorAll(':scope > .tabitem')].indexOf(tab) : 0;"
        " const numbered = tab?.parentElement.querySelectorAll(':scope > .tab-nav > button')[number];"
        " (document.querySelector(`#db_tab_${name}-button`) || numbered).click() }",
        name,
    )
    visitor.page.wait_for_timeout(300)


def test_a_browser_in_chinese_sees_the_page_in_chinese(reader):
    assert "训练" in reader.text("train")
    for name in ("create", "settings", "concepts", "pictures", "saving", "tools"):
        open_tab(reader, name)
        reader.open_accordions()
        reader.page.wait_for_timeout(500)
        assert reader.page.evaluate(LEFT_IN_ENGLISH) == [], name
    assert reader.problems == []


def test_messages_are_translated_and_names_are_not(reader):
    open_tab(reader, "create")
    reader.page.wait_for_function("document.querySelector('#db_new_model_src input')?.value")
    reader.fill(new_model_name="Samples")
    reader.press("create")
    reader.sees("status", "已创建 Samples")
    assert reader.value("model_name") == "Samples"


def test_a_browser_in_english_sees_the_page_in_english(onlooker):
    if not WEBUI:
        assert not re.search(r"[\u4e00-\u9fff]", onlooker.page.inner_text("#db_page"))
