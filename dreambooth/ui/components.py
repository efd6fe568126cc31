"""Small parts that several forms of the page have: buttons, messages, rows that are shown one by one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreambooth.ui.gradio_versions import control


def button(label: str, elem_id: str, **options: Any) -> Any:
    """A small button; ``options`` as of gr.Button."""
    return control(gr.Button, label, size="sm", elem_id=elem_id, **options)


def message(elem_id: str) -> Any:
    """Where a form shows messages and errors."""
    return control(gr.HTML, elem_id=elem_id, elem_classes=["db_said_here"])


def visible_rows(n: int, total: int) -> list[Any]:
    """How many of ``total`` rows are visible, at most ``n``, and the update of each row."""
    n = min(n, total)
    return [n, *(gr.update(visible=row < n) for row in range(total))]
