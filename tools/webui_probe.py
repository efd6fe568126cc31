"""preload.py of a second extension that try_webui.py installs: records what loading our script changes.

The WebUI runs it in its own process before it loads scripts. The record is served at /dreambooth-probe.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "gradio", "numpy", "PIL", "pandas", "matplotlib", "peft")
record = {"import_s": 0.0, "build_s": 0.0, "collector_s": 0.0, "heavy": [], "modules": 0, "changed": {}}


def preload(parser):
    from modules import script_loading

    load = script_loading.load_module

    def load_module(path):
        return load_ours(load, path) if path.endswith(os.path.join("dreambooth", "scripts", "main.py")) else load(path)

    script_loading.load_module = load_module


def load_ours(load, path):
    from modules import script_callbacks

    on_ui_tabs = script_callbacks.on_ui_tabs
    script_callbacks.on_ui_tabs = lambda build, **named: on_ui_tabs(lambda: watch("build_s", build), **named)
    script_callbacks.on_app_started(lambda _, app: add_route(app))
    try:
        return watch("import_s", lambda: load(path))
    finally:
        script_callbacks.on_ui_tabs = on_ui_tabs


def watch(what, work):
    """Call ``work`` and record its CPU time, its imports and what it changed."""
    before, modules, collector, started = state(), set(sys.modules), Collector(), time.thread_time()
    gc.callbacks.append(collector)
    try:
        return work()
    finally:
        gc.callbacks.remove(collector)
        record[what] = round(time.thread_time() - started - collector.took, 3)
        record["collector_s"] += round(collector.took, 3)
        new = set(sys.modules) - modules
        record["modules"] += len(new)
        record["heavy"] += sorted(name for name in new if name.split(".")[0] in HEAVY)
        after = state()
        record["changed"].update({name: [before[name], after[name]] for name in before if before[name] != after[name]})


class Collector:
    """Time of full garbage collections, which go through all objects of the WebUI and happen at random."""

    def __init__(self):
        self.took, self.thread = 0.0, threading.get_ident()

    def __call__(self, phase, info):
        if info["generation"] == 2 and threading.get_ident() == self.thread:
            self.took += time.thread_time() if phase == "stop" else -time.thread_time()


def state():
    """Global state that all extensions of a WebUI share."""
    import safetensors.torch
    import torch

    root = logging.getLogger()
    functions = {
        "torch.load": torch.load,
        "safetensors.torch.load_file": safetensors.torch.load_file,
        "Linear.forward": torch.nn.Linear.forward,
        "Conv2d.forward": torch.nn.Conv2d.forward,
        "excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "showwarning": warnings.showwarning,
    }
    return {
        **{name: f"{one.__module__}.{one.__qualname__} {id(one)}" for name, one in functions.items()},
        "sys.path": list(sys.path),
        "sys.meta_path": [str(finder) for finder in sys.meta_path],
        "root logging": [root.level, [str(handler) for handler in root.handlers], [str(f) for f in root.filters]],
        "logging.disable": logging.root.manager.disable,
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": len(warnings.filters),
        "environment": {name: hash(value) for name, value in os.environ.items()},
        "folder": os.getcwd(),
        "torch": [
            torch.get_num_threads(), str(torch.get_default_dtype()), torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        ],
    }  # fmt: skip


def add_route(app):
    app.add_api_route("/dreambooth-probe", lambda: {**record, "now": state()})
