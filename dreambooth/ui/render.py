"""HTML of the page's parts. Everything that comes from users or files is escaped here."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.memory.planner import MemoryPlan
from dreambooth.settings import CONCEPT, SETTINGS, Settings
from dreambooth.text import count, format_bytes, format_duration
from dreambooth.ui.links import concept_link, setting_link
from dreambooth.ui.run_view import SavedFile

MAX_ROWS = 200
FILE_KINDS = {
    "lora": "LoRA", "checkpoint": "Checkpoint", "snapshot": "Snapshot", "model": "Model", "embedding": "Embedding",
}  # fmt: skip


_message_numbers = itertools.count()


def lines(texts: Iterable[str], css_class: str = "db_said") -> str:
    """One paragraph per line of ``texts``."""
    parts = [part for text in texts for part in text.splitlines()]
    return "".join(f'<p class="{css_class}">{html.escape(part)}</p>' for part in parts)


def problems(texts: Sequence[str]) -> str:
    """Errors, one paragraph each, with a link to the field that it names. Editing that field hides the error."""
    return _linked_lines(texts, "db_problem")


def refusal(texts: Sequence[str]) -> str:
    """As :func:`problems`, for the answer to a click.

    The number makes each answer differ, so that the browser shows the same error again after it was hidden.
    """
    return f'{problems(texts)}<i data-message="{next(_message_numbers)}"></i>'


def warnings(texts: Sequence[str]) -> str:
    """Warnings, with links as in :func:`problems`."""
    return _linked_lines(texts, "db_warning")


def _linked_lines(texts: Sequence[str], css_class: str) -> str:
    return "".join(f'<p class="{css_class}">{_linked(text)}</p>' for text in texts)


def _linked(text: str) -> str:
    """HTML of ``key (Label): problem`` or ``concept 2: key: problem``, with a link in place of the key."""
    named = re.match(r"(concept (\d+)[:,] )?(\w+)", text, re.IGNORECASE)
    start, number, key = named.groups() if named else (None, None, "")
    if number and key in CONCEPT:
        link, label = concept_link(number, key), CONCEPT[key].label
    elif not number and key in SETTINGS:
        link, label = setting_link(key), SETTINGS[key].label
    else:
        return html.escape(text)
    problem = text[named.end() :].removeprefix(f" ({label})") if named else ""
    return f"{html.escape(start or '')}{link}{html.escape(problem)}"


def disabled(elem_ids: Sequence[str], style: str = "opacity: 0.7") -> str:
    """Style sheet that grays out controls; javascript/dreambooth.js makes them inert for the keyboard too.

    Gradio's own ``interactive`` is not used, because Gradio 6 loses it on a control in a closed accordion.
    """
    if not elem_ids:
        return "<i></i>"
    selector = ", ".join(f"#{elem_id}" for elem_id in elem_ids)
    return f'<style>{selector} {{ {style}; pointer-events: none }}</style><i data-ids="{" ".join(elem_ids)}"></i>'


def locked(elem_ids: Sequence[str], without_effect: Sequence[str]) -> str:
    """As :func:`disabled`, for controls whose values matter to the running job: without colors, but well readable.

    ``without_effect``: those of them that are grayed out as at other times.
    """
    return disabled(elem_ids, "filter: grayscale(1)") + disabled(without_effect)


def reasons(unavailable: Mapping[str, str], title: str) -> str:
    """Why a model family can't have some controls; javascript/dreambooth.js shows it below them.

    ``unavailable``: reasons by elem_id; ``title``: of the family.
    """
    texts = {elem_id: html.escape(f"Not with {title}: {reason}.") for elem_id, reason in unavailable.items()}
    return "".join(f'<i data-reason-for="{elem_id}">{text}</i>' for elem_id, text in texts.items())


def status(line: str, state: str, warning: str = "", result: SavedFile | None = None) -> str:
    """The status line; ``state``: of a :class:`RunView`, or "paused". ``result``: the file that can be used now."""
    text = problems(line.splitlines()) if state == "failed" else f"<p>{html.escape(line)}</p>"
    below = f'<p class="db_warning">{html.escape(warning)}</p>' if warning else ""
    use = _use_now(result) if result else ""
    return f'<div class="db_run db_state_{state or "idle"}" aria-live="polite">{text}{use}{below}</div>'


def _use_now(file: SavedFile) -> str:
    """How to use a LoRA or checkpoint in the WebUI."""
    path = Path(file.path)
    if file.kind == "lora":
        tag = html.escape(f"<lora:{path.stem}:1>")
        # The page's script writes the tag into the prompt of a WebUI; elsewhere style.css hides the button.
        add = f'<button type="button" class="db_add_tag" data-db-tag="{tag}">Add to txt2img prompt</button>'
        text = f"Use it now: add <code>{tag}</code> to a prompt.{add}"
    else:
        text = f"Use it now: choose the checkpoint <code>{html.escape(path.name)}</code>."
    return f'<p class="db_use">{text}<small>{html.escape(file.path)}</small></p>'


def progress_bar(fraction: float | None, moving: bool) -> str:
    """A progress bar; indeterminate if ``fraction`` is None and something runs."""
    if fraction is None and not moving:
        return '<div class="db_bar"></div>'
    value = "" if fraction is None else f' value="{fraction:.4f}"'
    css_class = "db_bar db_moving" if moving else "db_bar"
    return f'<div class="{css_class}"><progress{value} aria-label="Progress"></progress></div>'


def definitions(rows: Mapping[str, str]) -> str:
    """Names and values as a definition list."""
    cells = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in rows.items())
    return f'<dl class="db_facts">{cells}</dl>'


def saved_files(saved: Sequence[SavedFile]) -> str:
    """List of saved files, newest first."""
    items = "".join(_file(item) for item in reversed(saved))
    return f"<ul>{items}</ul>" if items else ""


def _file(item: SavedFile) -> str:
    name, path = Path(item.path).name, html.escape(item.path)
    kind = FILE_KINDS.get(item.kind, item.kind)
    # The page's script refreshes a WebUI's own lists when there is another one.
    listed = f' data-db-saved="{path}"' if item.kind in ("lora", "checkpoint") else ""
    return (
        f'<li title="{path}"{listed}><span class="db_kind">{html.escape(kind)}</span> <code>{html.escape(name)}</code>'
        f"<small>{path}{' · ' + html.escape(item.summary) if item.summary else ''}</small></li>"
    )


def escaped(value: Any) -> str:
    return html.escape(str(value))


def table(
    columns: Mapping[str, Callable[[Mapping[str, Any]], Any]],
    rows: Sequence[Mapping[str, Any]],
    cell: Callable[[Any], str] = escaped,
    see_all: str = "",
) -> str:
    """A table of the first MAX_ROWS rows; ``see_all``: text after the number of the others, where to see them.

    ``cell`` turns a column's value into HTML.
    """
    head = "".join(f"<th>{name}</th>" for name in columns)
    lines = ["".join(f"<td>{cell(value(row))}</td>" for value in columns.values()) for row in rows[:MAX_ROWS]]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    more = f"<p>… and {len(rows) - MAX_ROWS:,} more{see_all}.</p>" if len(rows) > MAX_ROWS else ""
    return f'<div class="db_table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _autosave(settings: Settings) -> str:
    return f", an automatic one every {settings.autosave_minutes:g} min" if settings.autosave_minutes else ""


def forecast(checked: Mapping[str, Any], settings: Settings, seconds_per_step: float | None) -> str:
    """What the checked run would do: images, batch, steps, memory, time. ``checked``: PreflightResult.as_dict()."""
    precision = {"no": "float32"}.get(checked["precision"], checked["precision"])
    batch, accumulation = settings.train_batch_size, settings.gradient_accumulation_steps
    images = count(checked["pictures"], "image")
    if checked["class_pictures"]:
        images += f" and {count(checked['class_pictures'], 'class image')}"
    if checked.get("class_images_to_draw"):
        images += f", {count(checked['class_images_to_draw'], 'class image')} to generate first"
    parts = [
        images,
        f"batch size {batch} × {count(accumulation, 'accumulation step')} = {count(batch * accumulation, 'image')} "
        "per step",
        count(checked["steps"], "step"),
        f"memory: {MemoryPlan(checked['memory_phases'], checked['memory_is_estimate']).summary()}",
        f"snapshots of about {format_bytes(checked['snapshot_bytes'])}{_autosave(settings)}",
        f"{precision} on {checked['device']}",
    ]
    if seconds_per_step:
        parts.append(f"about {format_duration(checked['steps'] * seconds_per_step)} at the last run's speed")
    return f'<p class="db_forecast">{html.escape(" · ".join(parts))}</p>'
