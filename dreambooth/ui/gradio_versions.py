"""What differs between Gradio 3.41 (A1111), 4.40 (Forge) and 6 (alone). Nothing else asks for the version."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.partition(".")[0])
FEW = 8  # inputs that an event carries by itself
# 3.41 takes these through **kwargs, so that they don't show in a constructor's signature.
COMMON = {"elem_id", "elem_classes", "visible", "render"} if MAJOR == 3 else set()


def control(kind: type, *args: Any, **options: Any) -> Any:
    """A component, without the options that this Gradio does not know.

    A WebUI would remember its first value in ui-config.json for good and prefer it to ours ever after; these
    components ask it not to.
    """
    known = _options(kind)
    component = kind(*args, **{key: value for key, value in options.items() if key in known})
    component.do_not_save_to_config = True
    return component


@functools.cache
def _options(kind: type) -> set[str]:
    """Those that a component takes. Kept, because looking takes a WebUI's start time, and a page has hundreds."""
    return COMMON | set(inspect.signature(kind.__init__).parameters)


def followed(html: Any) -> Any:
    """``html`` with a mark beside it: ``html.mark.change`` tells that there is something else in it now.

    Gradio 4 tells ``html.change`` whenever it draws anything of the page anew, so that an answer would call for itself
    for ever.
    """
    html.mark = control(gr.Textbox, elem_classes=["db_hidden"])
    return html


def on(
    event: Callable | list[Callable],
    call: Callable,
    inputs: Any = None,
    outputs: Any = None,
    never_skip: bool = False,
) -> Any:
    """Have ``call`` answer ``event`` (button.click, event.then, ...), or each of several. The last one is returned.

    A click that comes while the answer to the last one is on its way is dropped; with ``never_skip`` it is answered
    after that.

    Decided by version, not by looking at ``event``: Forge wraps events so that their signature tells nothing.
    """
    events = event if isinstance(event, list) else [event]
    call, outputs = _marking(call, _listed(outputs))
    manners = _manners() | ({"trigger_mode": "always_last"} if never_skip and MAJOR > 3 else {})
    if MAJOR >= 6 and len(_listed(inputs)) > FEW:
        return _on_gathered(events, call, inputs, outputs, manners)
    return [one(call, inputs, outputs, **manners) for one in events][-1]


def _marking(call: Callable, outputs: list[Any]) -> tuple[Callable, list[Any]]:
    """``call`` that also answers for the marks of its outputs, see :func:`followed`."""
    marked = [place for place, output in enumerate(outputs) if hasattr(output, "mark")]
    if not marked:
        return call, outputs

    def answer(*given: Any) -> list[Any]:
        answers = call(*given)
        answers = [answers] if len(outputs) == 1 else list(answers)
        return [*answers, *(_mark(answers[place]) for place in marked)]

    # Gradio reads off a function's signature how many values it takes.
    answer.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
    return answer, [*outputs, *(outputs[place].mark for place in marked)]


def _mark(answer: Any) -> Any:
    """A short word for what an HTML is to show; an update without a value leaves the mark as well."""
    content = answer.get("value", answer) if isinstance(answer, dict) else answer
    return answer if isinstance(content, dict) else hashlib.sha256(str(content).encode()).hexdigest()[:16]


def _listed(parts: Any) -> list[Any]:
    return [] if parts is None else list(parts) if isinstance(parts, (list, tuple)) else [parts]


def _on_gathered(
    events: list[Callable], call: Callable, inputs: list[Any], outputs: list[Any], manners: dict[str, Any]
) -> Any:
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
        written = event(None, fields, letter, js="(...values) => JSON.stringify(values)", **manners)
        return written.then(opened, [letter, *states], outputs, **manners)

    answered = [sent(event) for event in events][-1]
    if len(events) == 1:  # there may be a secret among the fields
        answered.then(None, None, letter, js="() => ''", **_manners())
    return answered


def _manners() -> dict[str, Any]:
    """Options of every event: kept out of the page's public API, waiting for nobody, showing nothing by itself."""
    if MAJOR < 6:  # 3.41 has a single queue for the whole page; 4.40 draws the page anew at each word from the queue
        return {"api_name": False, "queue": False, "show_progress": "hidden"}
    # It would note of each output, too, how it fared (see above): there is no place to show progress on.
    return {"api_visibility": "private", "show_progress_on": [], "concurrency_limit": None, "show_progress": "hidden"}


def again_and_again(call: Callable, inputs: Any, outputs: Any) -> None:
    """Have ``call`` answer for as long as the page is open: our script presses a button that nobody sees.

    The script and no gr.Timer, because it knows whether anybody looks; and 3.41's own ``every`` goes on with the values
    that the page was loaded with.
    """
    tick = control(gr.Button, elem_id="db_tick", elem_classes=["db_hidden"])
    on(tick.click, call, inputs, outputs)


def launch(page: gr.Blocks, css: str, script: str, **options: Any) -> Any:
    """Serve ``page`` with our look and script, and with the options of ``launch`` that this Gradio knows."""
    workers: dict[str, Any] = {"concurrency_count" if MAJOR == 3 else "default_concurrency_limit": 8}
    page.queue(**workers)
    head = f"<script>{script}</script>"
    if MAJOR >= 6:
        options |= {"css": css, "head": head}
    else:
        page.css, page.head = css, head
    if MAJOR == 3:
        on_load: dict[str, Any] = {"_js": f"() => {{ {script} }}"}  # it has no head
        with page:
            page.load(None, **on_load)
    known = inspect.signature(gr.Blocks.launch).parameters
    return page.launch(**{key: value for key, value in options.items() if key in known})
