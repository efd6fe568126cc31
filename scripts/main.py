"""The skin: puts the Dreambooth tab into a WebUI. All else is in the package beside this folder."""

from __future__ import annotations

import html
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

from modules import script_callbacks

# The WebUI's scripts.basedir() is right only while this file is being imported; its own path always is.
ROOT = Path(__file__).resolve().parent.parent


def tabs():
    """The WebUI's callback: (interface, title, elem_id) per tab."""
    import gradio as gr

    try:
        interface = build()
    except Exception as problem:
        logging.getLogger("dreambooth").exception("The Dreambooth tab could not be built")
        said = html.escape(str(problem))
        with gr.Blocks(analytics_enabled=False) as interface:
            gr.HTML(f"<div id='db_trouble'><p>Dreambooth cannot start:</p><pre>{said}</pre></div>")
    return [(interface, "Dreambooth", "dreambooth")]


def build():
    """The tab, or an exception whose text says what is missing and how to mend it."""
    problems = load("dreambooth_install", ROOT / "install.py").problems()
    if problems:
        raise RuntimeError("\n".join(problems))
    package()
    from dreambooth import ui

    return ui.build()


def package() -> ModuleType:
    """Import our package without touching sys.path, which all extensions share."""
    ours = ROOT / "dreambooth" / "__init__.py"
    there = sys.modules.get("dreambooth")
    if there is None:
        return load("dreambooth", ours, remember=True)
    if Path(getattr(there, "__file__", None) or "") != ours:
        raise RuntimeError(
            f"Another extension brought a package named dreambooth ({getattr(there, '__file__', '?')}).\n"
            "Disable the other Dreambooth extension and restart the WebUI."
        )
    return there


def load(name: str, path: Path, remember: bool = False) -> ModuleType:
    """The module or package at ``path``; in sys.modules only if it is to be importable by name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    if remember:
        sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


script_callbacks.on_ui_tabs(tabs)
