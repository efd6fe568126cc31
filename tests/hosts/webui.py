"""A minimal WebUI for our extension: the names it uses, and a record of the calls.

Names, signatures and the way scripts are loaded are those of A1111 1.10 (Forge's list-valued flags included).
"""

from __future__ import annotations

from pathlib import Path

MODULES = {
    "__init__.py": "",
    "script_callbacks.py": "tabs = []\ndef on_ui_tabs(callback, *, name=None):\n    tabs.append(callback)\n",
    "paths.py": "from pathlib import Path\nmodels_path = str(Path(__file__).parent.parent / 'models')\n",
    "shared.py": "import types\ncmd_opts = types.SimpleNamespace(ckpt_dir=None)\n",
    "devices.py": """
import torch
from modules.record import asked
def get_optimal_device():
    return torch.device("cpu")
def torch_gc():
    asked.append("gc")
""",
    "record.py": "asked = []\n",
    "call_queue.py": """
import threading
from modules.record import asked
class Lock:
    def __init__(self):
        self.lock = threading.Lock()
    def __enter__(self):
        self.lock.acquire()
        asked.append("queue taken")
    def __exit__(self, *_):
        asked.append("queue given back")
        self.lock.release()
queue_lock = Lock()
""",
    "sd_models.py": """
import threading, types
from modules.record import asked
checkpoints_list = {}
model_data = types.SimpleNamespace(sd_model="the model", lock=threading.Lock())
def unload_model_weights(sd_model=None, info=None):
    asked.append("unloaded")
def send_model_to_device(m):
    asked.append(f"{m} back")
def list_models():
    asked.append("checkpoints listed")
""",
}

LOAD = """
import importlib.util, logging, sys

def load_script(extension):
    \"\"\"Run an extension's script the way A1111 does.\"\"\"
    sys.path.insert(0, extension)
    try:
        path = extension + "/scripts/main.py"
        spec = importlib.util.spec_from_file_location("main.py", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(extension)
    return module
"""


def make_webui(folder: Path) -> Path:
    """A folder to be a process's working directory and first entry of sys.path."""
    for name, text in MODULES.items():
        path = folder / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "load.py").write_text(LOAD, encoding="utf-8")
    return folder
