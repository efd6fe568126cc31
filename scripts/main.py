"""Extension glue: adds the Dreambooth tab to a WebUI. Everything else is in the package ``dreambooth``."""

from __future__ import annotations

import html
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

from modules import script_callbacks

# The WebUI's scripts.basedir() is only valid while this file is being imported; its own path always is.
ROOT = Path(__file__).resolve().parent.parent


def tabs():
    """Callback of the WebUI: (interface, title, elem_id) of each tab."""
    import gradio as gr

    try:
        interface = build()
    except Exception as problem:
        logging.getLogger("dreambooth").exception("The Dreambooth tab could not be built")
        text = html.escape(str(problem))
        with gr.Blocks(analytics_enabled=False) as interface:
            gr.HTML(f"<div id='db_trouble'><p>Dreambooth cannot start:</p><pre>{text}</pre></div>")
    return [(interface, "Dreambooth", "dreambooth")]


def build():
    """The tab; RuntimeError with what is missing and how to fix it."""
    problems = load("dreambooth_install", ROOT / "install.py").problems()
    if problems:
        raise RuntimeError("\n".join(problems))
    import_package()
    from dreambooth import ui

    return ui.build()


def import_package() -> ModuleType:
    """Import our package without changing sys.path, which all extensions share."""
    ours = ROOT / "dreambooth" / "__init__.py"
    loaded = sys.modules.get("dreambooth")
    if loaded is None:
        return load("dreambooth", ours, register=True)
    if Path(getattr(loaded, "__file__", None) or "") != ours:
        raise RuntimeError(
            f"Another extension has loaded a package named dreambooth ({getattr(loaded, '__file__', '?')}).\n"
            "Disable the other Dreambooth extension and restart the WebUI."
        )
    return loaded


def load(name: str, path: Path, register: bool = False) -> ModuleType:
    """Load the module or package at ``path``; ``register`` adds it to sys.modules."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    if register:
        sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


script_callbacks.on_ui_tabs(tabs)
