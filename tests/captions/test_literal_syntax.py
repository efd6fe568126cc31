"""Syntax of WebUIs and damaged text in captions are noted: training takes both as plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.captions.literal_syntax import damaged_text, webui_syntax
from dreambooth.dataset.planning import make_plan
from dreambooth.settings import Concept, Settings
from tests.images.odd_images import encoded, noise


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a toy <lora:zwx_v2:0.8>", ["<lora:zwx_v2:0.8>"]),
        ("a toy, <LyCO:a:1:0.5>, <hypernet:x:1>", ["<LyCO:a:1:0.5>", "<hypernet:x:1>"]),
        ("a toy BREAK on a table", ["BREAK"]),
        ("a cat AND a dog", ["AND"]),
        ("a __color__ toy, __places/city__", ["__color__", "__places/city__"]),
        ("a {red|green} toy", ["{red|green}"]),
        ("a (red:1.3) toy, ((big))", ["(red:1.3)", "((big))"]),
        ("a [cat:dog:0.5], [cow|horse]", ["[cat:dog:0.5]", "[cow|horse]"]),
        ("hatsune miku (vocaloid), a toy [red], a_b, x__y", []),
        (r"name \(film\), fate \(series:2\), a < b, :d, 16:9, don't break it and go", []),
        ("BREAK AND ENTER", []),
    ],
)
def test_syntax_of_webuis(caption: str, found: list[str]) -> None:
    assert list(webui_syntax(caption, weighted=False, wildcards=False)) == found


def test_what_a_setting_makes_effective_is_not_noted() -> None:
    assert not list(webui_syntax("a (red:1.3) toy", weighted=True, wildcards=False))
    assert not list(webui_syntax("a {red|green} toy", weighted=False, wildcards=True))
    assert list(webui_syntax("a {2$$red|green} toy", weighted=False, wildcards=True)) == ["{2$$red|green}"]


def test_damaged_text() -> None:
    assert list(damaged_text("caf\ufffd, salt &amp; pepper, &#39;x&#39;")) == ["\ufffd", "&amp;", "&#39;", "&#39;"]
    assert not list(damaged_text("salt & pepper; R&B;, AT&T"))


def test_a_plan_names_the_captions_and_what_to_do(tmp_path: Path) -> None:
    captions = {"a": "a (red:1.2) toy <lora:x:1>", "b": "salt &amp; pepper", "c": "a plain caption"}
    for number, (name, text) in enumerate(captions.items()):
        (tmp_path / f"{name}.png").write_bytes(encoded(noise(number), "PNG"))
        (tmp_path / f"{name}.txt").write_text(text)
    concept = Concept(instance_data_dir=str(tmp_path))
    issues = {issue.path.stem: issue for issue in make_plan([concept], Settings(resolution=128)).issues}
    assert {name: issue.kind for name, issue in issues.items()} == {"a": "caption-syntax", "b": "caption-damaged"}
    assert "<lora:x:1>" in issues["a"].text and "turn on Weighted captions" in issues["a"].text
    weighted = make_plan([concept], Settings(resolution=128, weighted_captions=True))
    assert [issue.detail for issue in weighted.issues if issue.kind == "caption-syntax"] == ["<lora:x:1>"]
    assert [example.caption for example in weighted.examples] == list(captions.values())
