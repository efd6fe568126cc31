"""The user guide names only controls that the page has, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from dreambooth.hosts import StandaloneHost
from dreambooth.ui import build
from dreambooth.ui.links import guide_link
from tests.ui.test_language import texts_of

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide.md"


def test_the_controls_that_the_guide_names_are_on_the_page(tmp_path):
    text = GUIDE.read_text(encoding="utf-8").replace("**", "")
    named = {" ".join(name.split()) for name in re.findall(r"(?<!\*)\*([A-Z][^*`]+)\*", text)}
    texts = {*texts_of(build(StandaloneHost(tmp_path))), "Embedded mini model", "Italics"}
    assert len(named) > 50
    assert named <= texts


def test_its_links_lead_somewhere():
    text = GUIDE.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert (GUIDE.parent / path).exists(), target
        assert path or anchor in anchors, target


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/someone/dreambooth.git", "https://github.com/someone/dreambooth/blob/HEAD/docs/guide.md"),
        ("https://gitee.com/someone/dreambooth", "https://gitee.com/someone/dreambooth/blob/HEAD/docs/guide.md"),
        ("https://someone:secret@example.org/dreambooth.git", ""),
        ("git@github.com:someone/dreambooth.git", ""),
        ("/srv/dreambooth", ""),
    ],
)
def test_the_link_leads_to_where_the_extension_was_cloned_from(tmp_path, origin, address):
    (tmp_path / ".git").mkdir()
    config = (
        f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {origin}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    )
    (tmp_path / ".git" / "config").write_text(config)
    link = guide_link(tmp_path)
    assert (
        (f'href="{address}"' in link) if address else (str(tmp_path / "docs/guide.md") in link and "href" not in link)
    )


def test_without_a_repository_the_path_is_shown(tmp_path):
    assert str(tmp_path / "docs/guide.md") in guide_link(tmp_path)
