"""What the page shows as HTML. Everything that comes from people or files is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.settings import CONCEPT, SETTINGS, Settings
from dreambooth.ui.run_view import RunView, Saved

MOST_ROWS = 200
WHAT = {"lora": "LoRA", "checkpoint": "Checkpoint", "snapshot": "Snapshot", "model": "Model", "embedding": "Embedding"}


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 0.95e9 else f"{n_bytes / 1e6:.0f} MB"


def lines(texts: Iterable[str], css_class: str = "db_said") -> str:
    """A paragraph per line."""
    parts = [part for text in texts for part in text.splitlines()]
    return "".join(f'<p class="{css_class}">{html.escape(part)}</p>' for part in parts)


def problems(texts: Sequence[str]) -> str:
    """What stands in the way, each with a link to its field where it names one."""
    return _linked_lines(texts, "db_problem")


def warnings(texts: Sequence[str]) -> str:
    """What is to be known and stops nothing, as :func:`problems`."""
    return _linked_lines(texts, "db_warning")


def _linked_lines(texts: Sequence[str], css_class: str) -> str:
    return "".join(f'<p class="{css_class}">{_linked(text)}</p>' for text in texts)


def _linked(text: str) -> str:
    """``key (Label): what is wrong`` or ``concept 2: key (Label): ...``, the key as a link to its control."""
    start, _, rest = text.partition(": ") if text.startswith("concept ") else ("", "", text)
    key = rest.split(" ", 1)[0].rstrip(":")
    if start and key in CONCEPT:
        target = f"db_c{start.removeprefix('concept ')}_{key}"
    elif key in SETTINGS:
        target = f"db_{key}"
    else:
        return html.escape(text)
    label = (CONCEPT if start else SETTINGS)[key].label
    said = html.escape(text)
    return f'<a href="#{html.escape(target)}" class="db_goto">{html.escape(label)}</a>: {said}'


def unusable(elem_ids: Sequence[str]) -> str:
    """Greys controls out; javascript/dreambooth.js also keeps the keyboard away from them.

    A style sheet rather than Gradio's ``interactive``: that one is lost on a control in a folded group (Gradio 6).
    """
    if not elem_ids:
        return "<i></i>"
    selector = ", ".join(f"#{elem_id}" for elem_id in elem_ids)
    return f'<style>{selector} {{ opacity: 0.45; pointer-events: none }}</style><i data-ids="{" ".join(elem_ids)}"></i>'


def status(line: str, state: str, warning: str = "") -> str:
    told = f'<p class="db_warning">{html.escape(warning)}</p>' if warning else ""
    return f'<div class="db_run db_state_{state or "idle"}" aria-live="polite"><p>{html.escape(line)}</p>{told}</div>'


def bar(share: float | None, moving: bool) -> str:
    """A progress bar; without a share it shows only that work goes on."""
    if share is None and not moving:
        return '<div class="db_bar"></div>'
    value = "" if share is None else f' value="{share:.4f}"'
    kind = "db_bar db_moving" if moving else "db_bar"
    return f'<div class="{kind}"><progress{value} aria-label="Progress"></progress></div>'


def facts(rows: Mapping[str, str]) -> str:
    """What is so about a model, once and for all on this page."""
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items())
    return f'<dl class="db_facts">{cells}</dl>'


def files(saved: Sequence[Saved], run: RunView) -> str:
    """What was made and where it lies; a finished LoRA with the words that use it."""
    items = "".join(_file(item) for item in reversed(saved))
    loras = [item for item in saved if item.what == "lora"]
    use = ""
    if loras and run.state in ("done", "cancelled"):
        tag = f"<lora:{Path(loras[-1].path).stem}:1>"
        use = f'<p class="db_use">Use it now: write <code>{html.escape(tag)}</code> into a prompt.</p>'
    return f"{use}<ul>{items}</ul>" if items else ""


def _file(item: Saved) -> str:
    name, where = Path(item.path).name, html.escape(item.path)
    what = WHAT.get(item.what, item.what)
    return (
        f'<li title="{where}"><span class="db_kind">{html.escape(what)}</span> <code>{html.escape(name)}</code>'
        f"<small>{where}{' · ' + html.escape(item.summary) if item.summary else ''}</small></li>"
    )


def escaped(value: Any) -> str:
    return html.escape(str(value))


def table(
    columns: Mapping[str, Callable[[Mapping[str, Any]], Any]],
    rows: Sequence[Mapping[str, Any]],
    cell: Callable[[Any], str] = escaped,
    elsewhere: str = "",
) -> str:
    """Rows under the columns' names; of very many the first, and ``elsewhere`` says where the others are.

    ``cell`` makes HTML of what a column gives.
    """
    head = "".join(f"<th>{name}</th>" for name in columns)
    lines = ["".join(f"<td>{cell(value(row))}</td>" for value in columns.values()) for row in rows[:MOST_ROWS]]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    more = f"<p>… and {len(rows) - MOST_ROWS:,} more{elsewhere}.</p>" if len(rows) > MOST_ROWS else ""
    return f'<div class="db_table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def forecast(checked: Mapping[str, Any], settings: Settings, seconds_per_step: float | None) -> str:
    """What a run would do, in figures with their units."""
    precision = {"no": "float32"}.get(checked["precision"], checked["precision"])
    batch, accumulation = settings.train_batch_size, settings.gradient_accumulation_steps
    pictures = f"{checked['pictures']} pictures"
    if checked["class_pictures"]:
        pictures += f" and {checked['class_pictures']} class pictures"
    if checked.get("class_images_to_draw"):
        pictures += f", {checked['class_images_to_draw']} class images to be drawn first"
    parts = [
        pictures,
        f"batch {batch} × {accumulation} accumulation = {batch * accumulation} per step",
        f"{checked['steps']:,} steps",
        f"about {gigabytes(checked['memory_gb'] * 1e9)} of memory",
        f"{precision} on {checked['device']}",
    ]
    if seconds_per_step:
        parts.append(f"about {max(1, round(checked['steps'] * seconds_per_step / 60))} min at the last run's speed")
    return f'<p class="db_forecast">{html.escape(" · ".join(parts))}</p>'
