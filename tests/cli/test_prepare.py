"""The command ``prepare``: real processes, killed at any moment, never lose an original."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from PIL import Image

from tests import fork_server
from tests.cli.commands import run, run_fork, start

IN_PLACE = ["--in-place", "--rename", "{n}", "--format", "PNG", "--mirror", "instead"]

# Runs a command of the command line, and is killed before it moves its n-th file.
KILLED = """
import os, signal, sys
from dreambooth.cli import main
left, move = int(sys.argv[1]), os.rename

def rename(*paths):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    move(*paths)

os.rename = rename
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "写真 photos"
    path.mkdir()
    for n in range(4):
        noise = random.Random(n).randbytes(80 * 60 * 3)
        Image.frombytes("RGB", (80, 60), noise).save(path / f"{n}.{'png' if n % 2 else 'bmp'}")
    (path / "0.txt").write_text("nought")
    (path / "3_mask.png").write_bytes((path / "1.png").read_bytes())
    return path


def contents(folder, hidden=False) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if hidden or not name.startswith(".")}


def test_dry_run_prepare_in_place_undo(folder, tmp_path):
    before, out = contents(folder), tmp_path / "out"
    options = ["--crop", "smart", "--fixed-size", "48x64", "--enlarge", "--rename", "x {n:03}", "--out", out]
    dry = run("prepare", folder, *options, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert not out.exists() and contents(folder) == before
    done = run_fork("prepare", folder, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert {**json.loads(done.stdout), "state": ""} == {**json.loads(dry.stdout), "state": ""}
    assert sorted(contents(out)) == ["x 001.bmp", "x 001.txt", "x 002.png", "x 003.bmp", "x 004.png", "x 004_mask.png"]
    assert [change["new_size"] for change in json.loads(done.stdout)["changes"]] == [[48, 64]] * 4
    again = run("prepare", folder, *options)
    assert again.returncode == 1 and "is not empty, and nothing is overwritten" in again.stderr
    refused = run("prepare", folder, "--crop", "cleverly", "--json")
    assert refused.returncode == 2 and "invalid choice" in refused.stderr
    refused = run("prepare", folder, "--quality", "101", "--resolution", "many", "--json")
    assert len(json.loads(refused.stdout)["problems"]) == 2
    refused = run("prepare", folder, "--in-place", "--out", out, "--long-side", 64, "--crop", "smart")
    assert "--out has no effect" in refused.stderr and "--long-side has no effect" in refused.stderr
    assert run("prepare", folder, *IN_PLACE).returncode == 0 and contents(folder) != before
    undone = run("prepare", folder, "--undo", "--json")
    assert json.loads(undone.stdout) == {"state": "done", "restored": 6, "removed": 6, "set_aside": []}
    assert contents(folder, hidden=True) == before
    assert "no preparation in place" in run("prepare", folder, "--undo").stderr
    assert "takes no other option" in run("prepare", folder, "--undo", "--enlarge").stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
def test_killed_while_files_are_moved_undo_restores_the_originals(folder):
    before = contents(folder)
    moves = 12  # six files are moved away, six are created
    for n in (0, 8, moves - 1):
        assert killed_at(n, "prepare", folder, *IN_PLACE)
        assert set(before.values()) <= set(contents(folder, hidden=True).values())
        refused = run("prepare", folder, *IN_PLACE)
        assert refused.returncode == 1 and "Undo it first" in refused.stderr
        if n == 8:  # and killed during the undo
            assert killed_at(3, "prepare", folder, "--undo")
            assert set(before.values()) <= set(contents(folder, hidden=True).values())
        undone = run("prepare", folder, "--undo")
        assert undone.returncode == 0, undone.stderr
        assert contents(folder, hidden=True) == before
    assert not killed_at(moves, "prepare", folder, *IN_PLACE)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
@pytest.mark.parametrize("where", [["--in-place"], []], ids=["in place", "new folder"])
def test_killed_at_any_time_nothing_is_incomplete(folder, where):
    for n in range(30):
        Image.effect_noise((400, 300), 90).save(folder / f"noise {n}.png")
    before, command = contents(folder), ["prepare", folder, "--mirror", "instead"]
    started = time.monotonic()
    assert run_fork(*command, "--out", folder.with_name("whole")).returncode == 0
    seconds, chance = time.monotonic() - started, random.Random(1)
    for _ in range(3):
        process = start(*command, *where)
        time.sleep(chance.uniform(0.3, 1) * seconds)
        process.kill()
        process.communicate()
        made = folder.with_name(f"{folder.name}-prepared")
        if made.exists():  # it was finished before the kill
            assert len(contents(made)) == len(before)
        if contents(folder) != before:
            assert run("prepare", folder, "--undo").returncode == 0
        assert contents(folder) == before


def killed_at(n, *args) -> bool:
    """Whether the process was killed before its n-th move; False if it finished."""
    ended = fork_server.run("-c", KILLED, n, *args)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0
