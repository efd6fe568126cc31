"""Differences between Gradio 3.41 (A1111), 4.40 (Forge) and 6 (standalone). No other module checks the version."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.partition(".")[0])
MAX_DIRECT_INPUTS = 8  # an event with more inputs sends them as one JSON text, see _on_packed
# Gradio 3.41 takes these through **kwargs, so they are missing from a constructor's signature.
COMMON_OPTIONS = {"elem_id", "elem_classes", "visible", "render"} if MAJOR == 3 else set()


def control(kind: type, *args: Any, **options: Any) -> Any:
    """A component of class ``kind``, without the options that this version of Gradio does not have.

    ``do_not_save_to_config``: a WebUI would store the component's first value in ui-config.json and use it instead of
    our defaults from then on.
    """
    supported = _supported_options(kind)
    component = kind(*args, **{key: value for key, value in options.items() if key in supported})
    component.do_not_save_to_config = True
    return component


@functools.cache
def _supported_options(kind: type) -> set[str]:
    """Options of a component. Cached: a page has hundreds of components, and inspecting delays a WebUI's start."""
    return COMMON_OPTIONS | set(inspect.signature(kind.__init__).parameters)


def with_change_event(html: Any) -> Any:
    """``html`` with ``html.fingerprint.change``: an event for changes of its content.

    Gradio 4 fires ``html.change`` whenever it renders any part of the page, so that a handler which updates ``html``
    would trigger itself forever. The fingerprint is a hidden text box that changes only with the content.
    """
    html.fingerprint = control(gr.Textbox, elem_classes=["db_hidden"])
    return html


def on(
    event: Callable | list[Callable],
    handler: Callable,
    inputs: Any = None,
    outputs: Any = None,
    always_last: bool = False,
) -> Any:
    """Call ``handler`` for ``event`` (button.click, event.then, ...) or each of several; returns the last listener.

    An event that fires while the handler is still running is dropped; with ``always_last`` the last one is handled
    afterwards.

    Options depend on the version instead of the signature of ``event``, because Forge wraps events.
    """
    events = event if isinstance(event, list) else [event]
    handler, outputs = _with_fingerprints(handler, _as_list(outputs))
    event_options = _event_options() | ({"trigger_mode": "always_last"} if always_last and MAJOR > 3 else {})
    if MAJOR >= 6 and len(_as_list(inputs)) > MAX_DIRECT_INPUTS:
        return _on_packed(events, handler, inputs, outputs, event_options)
    return [one(handler, inputs, outputs, **event_options) for one in events][-1]


def _with_fingerprints(handler: Callable, outputs: list[Any]) -> tuple[Callable, list[Any]]:
    """``handler`` and ``outputs``, with the outputs' fingerprints added, see :func:`with_change_event`."""
    indices = [index for index, output in enumerate(outputs) if hasattr(output, "fingerprint")]
    if not indices:
        return handler, outputs

    def handle(*values: Any) -> list[Any]:
        updates = handler(*values)
        updates = [updates] if len(outputs) == 1 else list(updates)
        return [*updates, *(_fingerprint(updates[index]) for index in indices)]

    # Gradio takes the number of inputs from the function's signature.
    handle.__signature__ = inspect.signature(handler)
    return handle, [*outputs, *(outputs[index].fingerprint for index in indices)]


def _fingerprint(update: Any) -> Any:
    """Hash of the content that ``update`` sets; an update without a value is returned as it is."""
    content = update.get("value", update) if isinstance(update, dict) else update
    return update if isinstance(content, dict) else hashlib.sha256(str(content).encode()).hexdigest()[:16]


def _as_list(parts: Any) -> list[Any]:
    return [] if parts is None else list(parts) if isinstance(parts, (list, tuple)) else [parts]


def _on_packed(
    events: list[Callable], handler: Callable, inputs: list[Any], outputs: list[Any], event_options: dict[str, Any]
) -> Any:
    """As :func:`on` for many ``inputs``: the browser packs their values into one JSON text, and sends that.

    Gradio 6 records a loading status for each input of an event that the server handled. At every later event it goes
    through all records and searches the whole page for each: after one click on Save Params, the poll once a second
    kept a core busy. Events that are handled in the browser leave no records. A gr.State is on the server, so it
    remains an input.
    """
    payload = control(gr.Textbox, visible=False)
    fields = [part for part in inputs if not isinstance(part, gr.State)]
    states = [part for part in inputs if isinstance(part, gr.State)]

    def unpack(text: str, *state_values: Any) -> Any:
        of_fields, of_states = iter(json.loads(text)), iter(state_values)
        return handler(*(next(of_states if isinstance(part, gr.State) else of_fields) for part in inputs))

    def listen(event: Callable) -> Any:
        packed = event(None, fields, payload, js="(...values) => JSON.stringify(values)", **event_options)
        return packed.then(unpack, [payload, *states], outputs, **event_options)

    listener = [listen(event) for event in events][-1]
    if len(events) == 1:  # forget the payload: one of the fields may be a secret
        listener.then(None, None, payload, js="() => ''", **_event_options())
    return listener


def _event_options() -> dict[str, Any]:
    """Options of every event: no public API, no queue, no progress display."""
    if MAJOR < 6:  # 3.41 has one queue for the whole page; 4.40 renders the page again at each message of the queue
        return {"api_name": False, "queue": False, "show_progress": "hidden"}
    # An empty show_progress_on, so that no loading status is recorded for the outputs either (see _on_packed).
    return {"api_visibility": "private", "show_progress_on": [], "concurrency_limit": None, "show_progress": "hidden"}


def poll_while_open(handler: Callable, inputs: Any, outputs: Any) -> None:
    """Call ``handler`` regularly while the page is open: javascript/dreambooth.js clicks a hidden button.

    Unlike gr.Timer, the script polls less often while the page is not visible. ``every`` of Gradio 3.41 would keep
    sending the values that the page was loaded with.
    """
    tick = control(gr.Button, elem_id="db_tick", elem_classes=["db_hidden"])
    on(tick.click, handler, inputs, outputs)


def launch(page: gr.Blocks, css: str, script: str, **options: Any) -> Any:
    """Serve ``page`` with our style sheet and script, and with those ``options`` that this version of Gradio has."""
    workers: dict[str, Any] = {"concurrency_count" if MAJOR == 3 else "default_concurrency_limit": 8}
    page.queue(**workers)
    head = f"<script>{script}</script>"
    if MAJOR >= 6:
        options |= {"css": css, "head": head}
    else:
        page.css, page.head = css, head
    if MAJOR == 3:
        on_load: dict[str, Any] = {"_js": f"() => {{ {script} }}"}  # Gradio 3 has no ``head``
        with page:
            page.load(None, **on_load)
    supported = inspect.signature(gr.Blocks.launch).parameters
    return page.launch(**{key: value for key, value in options.items() if key in supported})
