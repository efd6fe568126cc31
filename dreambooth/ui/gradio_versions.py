"""What differs between Gradio 3.41 (A1111), 4.40 (Forge) and 6 (alone). Nothing else asks for the version."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.partition(".")[0])
# 3.41 takes these through **kwargs, so that they don't show in a constructor's signature.
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


def on(event: Callable, call: Callable, inputs: Any = None, outputs: Any = None, **options: Any) -> Any:
    """Have ``call`` answer ``event`` (button.click, event.then, ...). Kept out of the page's public API.

    Decided by version, not by looking at ``event``: Forge wraps events so that their signature tells nothing.
    """
    private = {"api_visibility": "private"} if MAJOR >= 6 else {"api_name": False}
    # No answer may wait behind a slow one; 3.41 has a single queue for the whole page, so it is passed by.
    parallel = {"queue": False} if MAJOR == 3 else {"concurrency_limit": None}
    quiet = {"show_progress": "hidden"}  # nothing may flicker over what is being read
    return event(call, inputs, outputs, **private, **parallel, **quiet, **options)


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
