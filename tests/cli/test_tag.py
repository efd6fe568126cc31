"""Auto-captioning on the command line, with models from a folder, from the hub, and missing ones."""

from __future__ import annotations

import json
import os
import threading

import pytest
from PIL import Image

from tests import fork_server
from tests.captioning import tiny_models
from tests.checkpoints.test_hub import AWAY, TOKEN, Hub
from tests.cli import commands


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "图片"
    made.mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (20, 10), color).save(made / f"{color}.png")
    (made / "broken.jpg").write_bytes(b"no picture")
    return made


@pytest.fixture
def tagger(tmp_path):
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library)
    return tiny_models.onnx_tagger(tmp_path / "models" / "taggers" / "wd-tiny")


@pytest.fixture
def run(tmp_path):
    def command(*args, **env):
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
        own = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
        words = ("tag", *args, "--models-dir", tmp_path / "models")
        return commands.run_fork(*words, env={**kept, **own, **env}, fresh=fork_server.HUB)

    return command


def test_tried_and_written(run, folder, tagger):
    tried = run(folder, "--model", "taggers/wd-tiny", "--general-threshold", 0.55, "--dry-run", "--json")
    assert tried.returncode == 0, tried.stderr
    result = json.loads(tried.stdout)
    rows = {row["picture"]: (row["caption"], row["tags"]) for row in result["captions"]}
    assert rows[str(folder / "red.png")] == ("red picture", {"red_picture": 1.0})
    assert "broken.jpg: is not a readable image" in result["notes"][0] and not list(folder.glob("*.txt"))
    done = run(folder, "--model", tagger, "--no-replace-underscores", "--trigger-word", "zwx", "--excluded-tags", "g*")
    assert done.returncode == 0, done.stderr
    assert "written: 2" in done.stdout and "broken.jpg: is not a readable image" in done.stderr
    assert (folder / "blue.txt").read_text() == "zwx, blue_picture, red_picture, ^_^"
    again = run(folder, "--model", tagger, "--json")
    assert json.loads(again.stdout)["left"] == 2


def test_all_problems_are_reported_at_once_in_one_line_each(run, folder):
    refused = run(folder, "--model", "nothing at all", "--json")
    assert refused.returncode == 1 and "Model nothing at all not found" in refused.stdout
    refused = run(folder)
    assert refused.returncode == 1 and "None is installed yet" in refused.stderr
    refused = run(folder, "--model", "x", "--general-threshold", "high", "--batch-size", 0)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 2
    assert run(folder, "--existing", "burn").returncode == 2
    assert not list(folder.glob("*.txt"))


@pytest.fixture
def hub(tagger):
    files = {path.name: path for path in tagger.iterdir()}
    server = Hub({"org/wd-open": files, "org/wd-gated": files, "org/none": {"README.md": tagger / "selected_tags.csv"}})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_from_the_hub_and_then_from_its_cache(run, folder, hub):
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address}
    asked = (folder, "--dry-run", "--json", "--model")
    for env in ({}, {"HF_HUB_OFFLINE": "0", **AWAY}):
        refused = run(*asked, "org/wd-open", **env)
        assert refused.returncode == 1 and "has no cached copy of it" in refused.stdout, refused.stderr
    for env in (online, {}, {"HF_HUB_OFFLINE": "0", **AWAY}):
        done = run(*asked, "org/wd-open", **env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["captions"][0]["tags"]["blue_picture"] == 1
    assert hub.n_downloads == 2
    assert "org/wd-gated is gated" in run(*asked, "org/wd-gated", **online).stdout
    assert run(*asked, "org/wd-gated", "--token", TOKEN, **online).returncode == 0
    assert "nor a model on the hub" in run(*asked, "org/absent", **online).stdout
    assert "org/none is not a captioning model" in run(*asked, "org/none", **online).stdout
