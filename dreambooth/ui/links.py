"""Links to controls of the page: the tab and accordion that javascript/dreambooth.js opens to show a control."""

from __future__ import annotations

import html
import re
from pathlib import Path

from dreambooth.settings import CONCEPT, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = "docs/guide.md"
# The address that an installation was cloned from, as far as browsers can show files there.
_ORIGIN = re.compile(r'^\[remote "origin"\][^\[]*?^\s*url\s*=\s*(https://[^\s@]+?)(\.git)?/?\s*$', re.MULTILINE)


def guide_link(root: Path = ROOT) -> str:
    """The user guide: a link to where this installation was cloned from, or the path of the file."""
    try:
        origin = _ORIGIN.search((root / ".git" / "config").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        origin = None
    if origin is None:
        return f"<p>User guide: <code>{html.escape(str(root / GUIDE))}</code></p>"
    address = f"{origin[1]}/blob/HEAD/{GUIDE}"
    return f'<p><a href="{html.escape(address)}" target="_blank" rel="noopener">User guide</a></p>'


def setting_link(key: str) -> str:
    """A link to the control of a setting."""
    setting = SETTINGS[key]
    group = "" if setting.tab == "Select" else group_id(setting.tab, setting.group)
    return link(setting.label, f"db_{key}", setting.tab.lower(), group)


def concept_link(number: int | str, key: str) -> str:
    """A link to the control of a concept's setting; concepts are counted from 1."""
    return link(CONCEPT[key].label, f"db_c{number}_{key}", "concepts", f"db_c{number}")


def link(title: str, elem_id: str, tab: str, accordion: str = "") -> str:
    """A link to a control. ``tab``: id of its tab. ``accordion``: elem_id of the outermost accordion that holds it.

    Gradio 6 renders a tab or accordion only when it is opened, so that the browser can't search for the control.
    """
    place = f'data-tab="{tab}" data-accordion="{html.escape(accordion)}"'  # for the script
    return f'<a href="#{html.escape(elem_id)}" class="db_goto" {place}>{html.escape(title)}</a>'


def group_id(tab: str, group: str, prefix: str = "db_") -> str:
    """The elem_id of the accordion of a group of settings."""
    return f"{prefix}group_{tab}_{group}".lower().replace(" ", "_")
