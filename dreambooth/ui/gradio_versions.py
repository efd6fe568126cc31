"""What differs between Gradio 3.41 (A1111), 4.40 (Forge) and 6 (alone). Nothing else asks for the version."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.partition(".")[0])
# 3.41 takes these through **kwargs, so that they don't show in a constructor's signature.
FEW = 8  # inputs that an event carries by itself
COMMON = {"elem_id", "elem_classes", "visible", "render"} if MAJOR == 3 else set()


def control(kind: type, *args: Any, **options: Any) -> Any:
    """A component, without the options that this Gradio does not know.

    A WebUI would remember its first value in ui-config.json for good and prefer it to ours ever after; these
    components ask it not to.
    """
    known = COMMON | set(inspect.signature(kind.__init__).parameters)
    component = kind(*args, **{key: value for key, value in options.items() if key in known})
    component.do_not_save_to_config = True
    return component


def on(event: Callable | list[Callable], call: Callable, inputs: Any = None, outputs: Any = None) -> Any:
    """Have ``call`` answer ``event`` (button.click, event.then, ...), or each of several. The last one is returned.

    Decided by version, not by looking at ``event``: Forge wraps events so that their signature tells nothing.
    """
    events = event if isinstance(event, list) else [event]
    inputs = inputs if isinstance(inputs, (list, tuple)) or inputs is None else [inputs]
    if MAJOR >= 6 and len(inputs or ()) > FEW:
        return _on_gathered(events, call, list(inputs or ()), outputs)
    return [one(call, inputs, outputs, **_manners()) for one in events][-1]


def _on_gathered(events: list[Callable], call: Callable, inputs: list[Any], outputs: Any) -> Any:
    """As :func:`on`: the browser first puts the values of many ``inputs`` into one letter, which is what is sent.

    Gradio 6 notes for each input of an answered event how that fared, and at every later event goes through all its
    notes, searching the whole page for each: once "Save Params" had been pressed, the look that comes once a second
    kept a core busy. What the browser does by itself leaves no notes. A gr.State lies on the server: it goes along.
    """
    letter = control(gr.Textbox, visible=False)
    fields = [part for part in inputs if not isinstance(part, gr.State)]
    states = [part for part in inputs if isinstance(part, gr.State)]

    def opened(text: str, *kept: Any) -> Any:
        of_fields, of_states = iter(json.loads(text)), iter(kept)
        return call(*(next(of_states if isinstance(part, gr.State) else of_fields) for part in inputs))

    def sent(event: Callable) -> Any:
        written = event(None, fields, letter, js="(...values) => JSON.stringify(values)", **_manners())
        return written.then(opened, [letter, *states], outputs, **_manners())

    return [sent(event) for event in events][-1]


def _manners() -> dict[str, Any]:
    """Options of every event: kept out of the page's public API, waiting for nobody, showing nothing by itself."""
    if MAJOR == 3:  # it has a single queue for the whole page, so that is passed by
        return {"api_name": False, "queue": False, "show_progress": "hidden"}
    common = {"concurrency_limit": None, "show_progress": "hidden"}
    if MAJOR < 6:
        return {"api_name": False, **common}
    # It would note of each output, too, how it fared (see above): there is no place to show progress on.
    return {"api_visibility": "private", "show_progress_on": [], **common}


def every(seconds: float, page: gr.Blocks, call: Callable, inputs: Any, outputs: Any) -> None:
    """Call again and again while the page is open, each time with the inputs' values of that moment."""
    if hasattr(gr, "Timer"):
        on(gr.Timer(seconds).tick, call, inputs, outputs)
        return
    # 3.41's own ``every`` goes on with the values that the page was loaded with; a hidden button does not.
    tick = control(gr.Button, visible=False, elem_id="db_tick")
    on(tick.click, call, inputs, outputs)
    root = "(document.querySelector('gradio-app')?.shadowRoot || document)"
    click = f"{root}.querySelector('#db_tick')?.click()"
    page.load(None, _js=f"() => {{ window.dreamboothTick ??= setInterval(() => {click}, {seconds * 1000}) }}")


def launch(page: gr.Blocks, css: str, script: str, **options: Any) -> Any:
    """Serve ``page`` with our look and script, and with the options of ``launch`` that this Gradio knows."""
    page.queue(**({"concurrency_count": 8} if MAJOR == 3 else {"default_concurrency_limit": 8}))
    head = f"<script>{script}</script>"
    if MAJOR >= 6:
        options |= {"css": css, "head": head}
    else:
        page.css, page.head = css, head
    if MAJOR == 3:
        with page:
            page.load(None, _js=f"() => {{ {script} }}")  # it has no head
    known = inspect.signature(gr.Blocks.launch).parameters
    return page.launch(**{key: value for key, value in options.items() if key in known})
