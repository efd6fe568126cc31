"""The captions command, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import commands


def run(*args):
    return commands.run("captions", *args)


def run_json(*args, run=run):
    done = run(*args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a": "1boy, facial hair, hat", "b": "hat, 1boy", "c": "solo"}.items():
        (tmp_path / f"{name}.png").touch()
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "03_red.png").touch()
    return tmp_path


def captions(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}


def test_from_counts_to_undo(folder):
    before = captions(folder)
    counted = run_json("captions", folder, "--count", run=commands.run_fork)
    assert (counted["pictures"], counted["caption_files"]) == (4, 3)
    assert counted["tags"][:2] == [{"tag": "1boy", "pictures": 2}, {"tag": "hat", "pictures": 2}]
    assert len(run_json(folder, "--find", "hat", "--how", "tag", "--without-tags", "facial hair")["found"]) == 1
    dry = run_json(folder, "--merge", "1boy, facial hair", "Smith", "--dry-run")
    assert (dry["state"], [change["after"] for change in dry["changes"]]) == ("planned", ["Smith, hat"])
    assert captions(folder) == before

    assert run_json(folder, "--merge", "1boy, facial hair", "Smith")["files"] == 1
    assert run_json(folder, "--merge", "1boy", "Smith", "--which", "any", "--with-tags", "hat")["files"] == 1
    assert run_json(folder, "--add", "zwx")["files"] == 4
    assert run_json(folder, "--replace", "(h)at", r"\1ood", "--how", "regex")["files"] == 2
    assert run_json(folder, "--sort", "name", "--keep-first", 1)["files"] == 1
    assert run_json(folder, "--set", "c.png", "by hand")["files"] == 1
    assert run_json(folder, "--remove", "red")["files"] == 1
    assert run_json(folder, "--tidy", "--underscores", "spaces")["files"] == 0
    assert captions(folder) == {"a.txt": "zwx, hood, Smith", "b.txt": "zwx, hood, Smith", "c.txt": "by hand",
                                "03_red.txt": "zwx"}  # fmt: skip
    history = run_json(folder, "--history")["history"]
    assert len(history) == 7 and history[0]["what"] == "remove red"
    for _ in range(7):
        assert run_json(folder, "--undo")["files"]
    assert captions(folder) == before and run_json(folder, "--undo")["files"] == 0
    assert run_json(folder, "--redo")["what"] == "merge 1boy, facial hair into Smith"
    shown = run(folder, "--add", "x\ny", "--dry-run").stdout
    assert "03_red.txt (new file)\n  - red\n" in shown and "4 files would change." in shown


def test_the_folder_of_a_concepts_list(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("concepts") / "concepts.json"
    file.write_text(json.dumps([{"instance_data_dir": str(folder)}]))
    assert run_json(file, "--count")["pictures"] == 4
    file.write_text(json.dumps([{"instance_data_dir": str(folder)}, {"instance_data_dir": str(file.parent)}]))
    assert f"lists 2 folders. Enter one of them: {folder}, {file.parent}" in run(file, "--count").stderr


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--replace", "(", "x", "--how", "regex"], "is not a valid regular expression"),
        (["--replace", "a", "x", "--how", "words"], "invalid choice"),
        (["--add", "x", "--how", "tag"], "--how has no effect here"),
        (["--undo", "--dry-run"], "--dry-run has no effect here"),
        (["--sort", "size"], "order (Order): 'size' is not one of: name, count"),
        (["--set", "d.png", "x"], "d.png is not an image in"),
        (["--count", "--undo"], "not allowed with"),
        ([], "is required"),
    ],
)
def test_bad_input_gets_a_line(folder, args, line):
    before = captions(folder)
    refused = run(folder, *args)
    assert refused.returncode and line in refused.stderr, refused.stderr
    assert captions(folder) == before and not (folder / ".dreambooth").exists()


def test_a_missing_folder(tmp_path):
    for what in ("--count", "--undo", "--history"):
        assert "there is no such folder" in run(tmp_path / "nowhere", what).stderr
    assert not (tmp_path / "nowhere").exists()
