"""A file is written completely or not at all; the old file stays until then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth import files
from dreambooth.errors import UserError


def test_failure_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"good": 1})
    with pytest.raises(RuntimeError), files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"good": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_failure_leaves_the_old_folder_and_no_temporary_file(tmp_path):
    with files.atomic_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("good")
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert (tmp_path / "f" / "x").read_text() == "good"
    assert os.listdir(tmp_path) == ["f"]


@pytest.fixture
def order(monkeypatch, tmp_path):
    """Names of what is synced, and "rename", in the order in which it happens."""
    events: list[str] = []

    def fsync(handle: int) -> None:
        inode = os.fstat(handle).st_ino
        (path,) = (path for path in [tmp_path, *tmp_path.rglob("*")] if path.stat().st_ino == inode)
        events.append("folder" if path == tmp_path else path.name.partition(".part")[0][:3])

    rename = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("rename") or rename(*paths))
    return events


@pytest.mark.skipif(os.name == "nt", reason="folders are synced by Windows itself")
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_afterwards(tmp_path, order):
    """Renamed first, a power cut could leave an empty file under the name of a good one."""
    files.write_text(tmp_path / "a", "x")
    assert order == [".a.", "rename", "folder"]
    order.clear()
    with files.atomic_write(tmp_path / "a", durable=False) as temporary:
        temporary.write_text("y")
    assert order == ["rename"]
    order.clear()
    for _ in range(2):
        with files.atomic_folder(tmp_path / "f") as temporary:
            (temporary / "b").write_text("x")
            (temporary / "c").mkdir()
            (temporary / "c" / "d").write_text("x")
    assert sorted(order[:2]) == ["b", "d"] and order[2:4] == ["rename", "folder"]
    assert sorted(order[4:6]) == ["b", "d"] and order[6:] == ["rename", "rename", "folder"]  # the old one goes aside


def test_killed_between_the_two_renames_of_a_folder_the_old_one_comes_back(tmp_path):
    (tmp_path / ".f.12345678.old").mkdir()
    (tmp_path / ".f.12345678.old" / "x").write_text("good")
    files.recover_folder(tmp_path / "f")
    assert (tmp_path / "f" / "x").read_text() == "good"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dreambooth import files
from dreambooth.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_text(Path(sys.argv[1]), "x" * 5000)
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of the operating system are set the POSIX way")
def test_a_write_that_the_system_refuses_is_a_line_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("good")
    run = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert str(path) in run.stdout
    assert path.read_text() == "good"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_too_little_space_is_refused_before_writing(tmp_path):
    with pytest.raises(UserError, match="GB is free"):
        files.require_free_space(tmp_path / "not" / "there", 10**18, "A checkpoint")


def test_json_that_is_none_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json"):
        files.read_json(Path(tmp_path / "a.json"))


def test_leftovers_of_a_killed_process_go_but_nothing_else(tmp_path):
    for name in (".a.safetensors.12345678.part", ".hidden", ".of another program.part", "a.part"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".young.12345678.part").write_text("another process is writing this")
    files.clear_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".of another program.part", ".young.12345678.part", "a.part"]
