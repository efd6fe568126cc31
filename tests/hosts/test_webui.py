"""The extension inside a WebUI, in processes that have imported nothing of it: tab, panel, contract, no traces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.hosts import StandaloneHost, current_host
from tests import fork_server
from tests.hosts.webui import make_webui

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def inside(tmp_path):
    """Run Python in a WebUI's process; what it prints comes back."""
    webui = make_webui(tmp_path / "webui")

    def run(code: str, extension: Path = ROOT) -> str:
        code = f"import sys\nfrom load import load_script\nEXTENSION = {str(extension)!r}\n{code}"
        environment = {**os.environ, "PYTHONPATH": str(webui), "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
        done = fork_server.run("-c", code, cwd=webui, env=environment, imported=("gradio", "torch"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


TAB = """
import logging
import gradio, torch  # the host has both before it loads scripts
before = list(sys.path), list(logging.root.handlers), logging.root.level, torch.nn.Linear.forward, torch.load
load_script(EXTENSION)
from modules import script_callbacks
[callback] = script_callbacks.tabs
[(blocks, title, name)] = callback()
packages = {module.split(".")[1] for module in sys.modules if module.startswith("dreambooth.")}
assert not packages & {"captioning", "checkpoints", "dataset", "runs", "sampling"}  # they take start time
assert (list(sys.path), list(logging.root.handlers), logging.root.level, torch.nn.Linear.forward, torch.load) == before
print(title, name, *sorted(b.elem_id for b in blocks.blocks.values() if b.elem_id))
for block in blocks.blocks.values():
    if isinstance(block, (gradio.Button, gradio.Textbox, gradio.Dropdown, gradio.Tabs)):
        assert block.do_not_save_to_config, block  # else ui-config.json freezes its value
"""


def test_the_tab_is_registered_and_leaves_no_trace(inside):
    words = inside(TAB).split()
    assert words[:2] == ["Dreambooth", "dreambooth"]
    assert {"db_create", "db_train", "db_cancel", "db_generate_ckpt", "db_status", "db_gallery"} <= set(words)


def test_reloading_the_ui_keeps_the_package(inside):
    """The WebUI's Reload UI runs scripts again in the same process; a run that is going on must survive it."""
    code = "load_script(EXTENSION).build()\nfirst = sys.modules['dreambooth.jobs']\nload_script(EXTENSION).build()\n"
    assert inside(code + "print(sys.modules['dreambooth.jobs'] is first)") == "True\n"


RELOADED = """
import threading
import gradio

def page():
    blocks = load_script(EXTENSION).build()
    functions = blocks.fns.values() if isinstance(blocks.fns, dict) else blocks.fns
    return next(f.fn.__self__ for f in functions if type(getattr(f.fn, "__self__", None)).__name__ == "Page")

started, go_on = threading.Event(), threading.Event()

def work(controls, events):
    events.progress(3, 12, "steps")
    started.set()
    go_on.wait(60)
    print("cancelled" if controls.cancelled else "not requested")

page().page_controller.job_runner.start("train", "my toy", work, model="my toy")
started.wait(60)
controller = page().page_controller
state = controller.page_state("my toy")
print("Training my toy" in state.status, state.training, state.locked)
controller.job_runner.request("cancel")
go_on.set()
sys.modules["dreambooth.jobs"].jobs.current.wait(60)
"""


def test_after_reload_ui_the_page_shows_and_steers_the_run_that_goes_on(inside):
    assert inside(RELOADED).splitlines() == ["True True True", "cancelled"]


PANEL = """
load_script(EXTENSION)
from modules import script_callbacks
[(blocks, title, name)] = script_callbacks.tabs[0]()
print(title, *(block.value for block in blocks.blocks.values() if hasattr(block, "value")))
"""


def test_a_missing_dependency_gives_a_panel_that_names_it(inside, tmp_path):
    extension = tmp_path / "extension"
    for part in ("dreambooth", "scripts"):
        ignore = shutil.ignore_patterns("embedded", "__pycache__")
        shutil.copytree(ROOT / part, extension / part, ignore=ignore)
    shutil.copy(ROOT / "install.py", extension)
    (extension / "requirements.txt").write_text("no_such_package>=1.0\ngradio>=999\n")
    panel = inside(PANEL, extension)
    assert panel.startswith("Dreambooth ")
    assert "no_such_package is missing" in panel and "is older than 999" in panel


def test_a_broken_package_gives_a_panel(inside, tmp_path):
    extension = tmp_path / "extension"
    shutil.copytree(ROOT / "scripts", extension / "scripts")
    for name in ("install.py", "requirements.txt"):
        shutil.copy(ROOT / name, extension)
    assert "Dreambooth cannot start" in inside(PANEL, extension)


def test_another_extension_with_our_packages_name_is_named(inside):
    other = "import types\nother = types.ModuleType('dreambooth')\nother.__file__ = '/other/__init__.py'\n"
    panel = inside(other + "sys.modules['dreambooth'] = other\n" + PANEL)
    assert "/other/__init__.py" in panel and "Disable the other Dreambooth extension" in panel


BORROW = """
import types
load_script(EXTENSION).import_package()
from dreambooth.hosts import current_host
from modules import call_queue, sd_models
from modules.record import asked
host = current_host()
def borrow(fail=False):
    asked.clear()
    try:
        with host.borrow_gpu():
            asked.append("ours" if call_queue.queue_lock.lock.locked() else "not locked")
            if fail:
                raise MemoryError
    except MemoryError:
        pass
    print(*asked, sep=", ")
borrow()
borrow(fail=True)
send_back, sd_models.send_model_to_device = sd_models.send_model_to_device, lambda model: 1 / 0
borrow()  # which does not fail
sd_models.send_model_to_device = send_back
sd_models.model_data.sd_model = None
borrow()
manager = types.ModuleType(MANAGER)  # of Forge and its kin; Forge Neo has no send_model_to_device
manager.unload_all_models = lambda: asked.append("all unloaded")
sys.modules[manager.__name__] = manager
sd_models.model_data = types.SimpleNamespace(sd_model="a model")
del sd_models.send_model_to_device
borrow()
print(host.name)
"""


@pytest.mark.parametrize(
    ("manager", "name"),
    [("backend.memory_management", "Forge"), ("ldm_patched.modules.model_management", "reForge or forge-classic")],
)
def test_the_gpu_is_borrowed_and_given_back_whatever_happens(inside, manager, name):
    *a1111, with_manager, reported = inside(f"MANAGER = {manager!r}\n{BORROW}").splitlines()
    whole = "queue taken, unloaded, gc, ours, gc, the model back, queue given back"
    not_back = whole.replace(", the model back", "")
    assert a1111 == [whole, whole, not_back, "queue taken, gc, ours, gc, queue given back"]
    assert with_manager == "queue taken, all unloaded, gc, ours, gc, queue given back"
    assert reported == name


FOLDERS = """
load_script(EXTENSION).import_package()
import time, types
from pathlib import Path
from dreambooth.hosts import current_host
from modules import call_queue, sd_models, shared
from modules.record import asked
shared.opts = types.SimpleNamespace()
host = current_host()
def show():
    folders = host.folders()
    print(*(path.as_posix() for path in (folders.dreambooth, folders.checkpoints, folders.loras)))
show()
shared.cmd_opts = types.SimpleNamespace(dreambooth_models_path="/db", ckpt_dir="/ckpt", lora_dir="/lora")
show()
shared.cmd_opts = types.SimpleNamespace(ckpt_dirs=["/neo/ckpt", "/more"], lora_dirs=["/neo/lora"])
show()
sd_models.checkpoints_list.update({
    name: types.SimpleNamespace(title=f"{name} [hash]", filename=f"/x/{name}")
    for name in ("a.safetensors", "b.ckpt", "c.gguf")
})
print(host.name, host.device(), *host.checkpoints())
def fails():
    raise OSError("a folder that is gone")
sys.modules["networks"] = types.SimpleNamespace(list_available_networks=fails)
print(host.vaes())
sd_vae = sys.modules["modules.sd_vae"] = types.SimpleNamespace(vae_dict={"a.vae.pt": "/vae/a.vae.pt"})
sd_vae.refresh_vae_list = lambda: (asked.append("VAEs listed"), sd_vae.vae_dict.update({"b": "/vae/b"}))
with call_queue.queue_lock:  # the WebUI generates
    host.files_changed()
    time.sleep(0.3)
while "checkpoints listed" not in asked or asked[-1] != "queue given back":
    time.sleep(0.05)
print(*asked, sep=", ")
asked.clear()
with host.borrow_gpu():
    host.files_changed(wait=60)
print(*asked, sep=", ")
print(dict(host.vaes())["b"].as_posix())
print(host.preselected_checkpoint())
shared.opts = types.SimpleNamespace(sd_model_checkpoint="b.ckpt [0123abcdef]")
print(host.preselected_checkpoint())
sd_models.checkpoints_list.clear()
print(host.preselected_checkpoint(), current_host() is host)
"""


def test_folders_checkpoints_and_lists_are_the_hosts(inside, tmp_path):
    lines = inside(FOLDERS).splitlines()
    models = (tmp_path / "webui" / "models").as_posix()
    assert lines[0] == f"{models}/dreambooth {models}/Stable-diffusion {models}/Lora"
    assert lines[1] == "/db /ckpt /lora"
    assert lines[2].endswith("/dreambooth /neo/ckpt /neo/lora")
    assert lines[3].startswith("A1111 cpu ('a.safetensors [hash]'") and "gguf" not in lines[3]
    # Not while the WebUI may generate: it would search for its checkpoint in a list that has just been cleared.
    after = "queue taken, queue given back, queue taken, checkpoints listed, VAEs listed, queue given back"
    # While a run of ours has the queue nothing is generated, and the files it saves are listed at once.
    during = "queue taken, unloaded, gc, checkpoints listed, VAEs listed, gc, the model back, queue given back"
    assert lines[4:8] == ["[]", after, during, "/vae/b"]
    # The WebUI's own checkpoint; nothing that was never listed, such as the embedded model, when there is none.
    assert lines[8:] == ["a.safetensors [hash]", "b.ckpt [hash]", "None True"]


COMPONENTS = """
load_script(EXTENSION).import_package()
import types
from pathlib import Path
from dreambooth.hosts import current_host
from modules import paths, shared
extra, models = Path("extra"), Path(paths.models_path)
for path in (extra / "a.sft", models / "text_encoder" / "sub" / "b.safetensors", extra / "vae" / "c.pt"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
shared.cmd_opts = types.SimpleNamespace(
    ckpt_dirs=["/neo/ckpt", "/more"], text_encoder_dirs=[str(extra)], vae_dirs=[str(extra / "vae")]
)
host = current_host()
print([title for title, _ in host.text_encoders()])
print([title for title, _ in host.vaes()], *(path.as_posix() for path in host.folders().more_checkpoints))
"""


def test_components_are_those_of_all_its_folders(inside):
    assert inside(COMPONENTS).splitlines() == ["['sub/b.safetensors', 'a.sft', 'vae/c.pt']", "['c.pt'] /more"]


def test_preload_adds_the_flag():
    code = "import argparse, preload; p = argparse.ArgumentParser(); preload.preload(p); "
    code += "print(p.parse_args(['--dreambooth-models-path', '/db']).dreambooth_models_path)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "/db\n"


def test_alone_lists_the_embedded_model_and_the_folders(tmp_path):
    (tmp_path / "Stable-diffusion" / "sub").mkdir(parents=True)
    (tmp_path / "Stable-diffusion" / "sub" / "x.safetensors").touch()
    host = current_host(tmp_path)
    assert isinstance(host, StandaloneHost)
    titles = [title for title, path in host.checkpoints() if path.exists()]
    assert titles == ["Embedded mini model", "Embedded mini Z-Image", "sub/x.safetensors"]


LANGUAGE = """
import types
import modules.shared as shared
from dreambooth.hosts import current_host
host = current_host()
for options in (
    {}, {"localization": "None"}, {"localization": "zh-Hans (Stable)"},
    {"localization": "None", "bilingual_localization_enabled": True, "bilingual_localization_file": "zh_CN"},
    {"localization": "None", "bilingual_localization_enabled": False, "bilingual_localization_file": "zh_CN"},
    {"ui_locale": "Auto"}, {"ui_locale": "zh: Chinese"},
):
    shared.opts = types.SimpleNamespace(**options)
    print(host.language() or "the browser's")
"""


def test_the_language_is_that_of_the_webui(inside):
    told = inside("load_script(EXTENSION)\nfrom modules import script_callbacks\n"
                  "[callback] = script_callbacks.tabs\ncallback()\n" + LANGUAGE).splitlines()  # fmt: skip
    assert told[-7:] == ["en", "en", "zh-Hans (Stable)", "zh_CN", "en", "the browser's", "zh: Chinese"]
