"""Edits are written completely or not at all, and can be undone byte for byte, also after a kill."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path

import pytest

from dreambooth.captions import history
from dreambooth.captions.history import EditHistory, FileChange
from dreambooth.captions.writing import redo, undo, write_captions, write_changes
from dreambooth.errors import Cancelled, UserError
from tests import fork_server

ODD = {
    "utf8.txt": "a, 帽子\n".encode(),
    "bom.txt": "a, café\r\n".encode("utf-8-sig"),
    "utf16.txt": "a\r\nb\r\n".encode("utf-16"),
    "cp1252.txt": "caf\xe9".encode("cp1252"),
    "ends.txt": b"a\rb\r\nc\n\n",
    "empty.txt": b"",
    "zero.caption": b"\0\xff\xfe\x80" * 9,
    "sub/ünï.txt": b"x",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In a folder of its own, all of which a test can read."""
    folder = tmp_path / "images"
    for name, data in ODD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def bytes_in(folder: Path) -> dict[str, bytes]:
    """All files except the history."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".dreambooth" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def edit(folder: Path, text: str, **more: object) -> int:
    """Edit every caption, and create one."""
    return write_captions(folder, {folder / name: f"{text}\r\n" for name in (*ODD, "new.txt")}, text, **more)


def test_undo_and_redo_are_exact(folder):
    if os.name != "nt":
        (folder / "utf8.txt").chmod(0o640)
    states = [bytes_in(folder)]
    for text in ("one", "two", "three"):
        assert edit(folder, text) == len(ODD) + 1
        states.append(bytes_in(folder))
    assert states[1]["new.txt"] == b"one\r\n"
    assert os.name == "nt" or (folder / "utf8.txt").stat().st_mode & 0o777 == 0o640
    for what, state in zip(("three", "two", "one"), reversed(states[:-1]), strict=True):
        assert undo(folder).description == what and bytes_in(folder) == state
    assert undo(folder).description == ""
    assert redo(folder).description == "one" and redo(folder).description == "two" and bytes_in(folder) == states[2]
    assert edit(folder, "other") and redo(folder).description == ""  # a new edit removes the undone ones
    assert undo(folder).description == "other" and undo(folder).description == "two" and bytes_in(folder) == states[1]


def test_a_file_that_is_not_a_caption_anymore_is_skipped(folder):
    before = bytes_in(folder)
    edit(folder, "one")
    (folder / "bom.txt").unlink()
    (folder / "bom.txt").mkdir()
    (folder / "ends.txt").write_bytes(bytes(2**21))
    undone = undo(folder)
    assert undone.n_files == len(ODD) - 1 and "bom.txt" in undone.messages[0] and "ends.txt" in undone.messages[0]
    after = bytes_in(folder)
    assert {name: data for name, data in before.items() if name not in ("bom.txt", "ends.txt")} == {
        name: data for name, data in after.items() if name != "ends.txt"
    }


def test_only_changed_files_are_written(folder):
    assert edit(folder, "one") and edit(folder, "one") == 0
    assert [recorded.n_files for recorded in EditHistory(folder).edits()] == [len(ODD) + 1]
    assert write_captions(folder, {folder / "bom.txt": "x", folder / "new.txt": "one\r\n"}, "two") == 1


KILLED = """
import sys, time
from pathlib import Path
from dreambooth.captions.writing import redo, undo, write_captions
from tests.captions.test_writing import edit

def wait(done, total, what):
    if done == 4:
        print("in the middle", flush=True)
        time.sleep(600)

folder, operation = Path(sys.argv[1]), sys.argv[2]
edit(folder, "two", progress=wait) if operation == "write" else {"undo": undo, "redo": redo}[operation](folder, wait)
"""


@pytest.mark.parametrize("operation", ["write", "undo", "redo"])
@pytest.mark.parametrize("then", ["undo", "redo", "write"])
def test_killed_while_writing_nothing_is_lost(folder, operation, then):
    """SIGKILL while files are written: the next undo, redo or edit finishes or reverts it."""
    states = [bytes_in(folder)]
    edit(folder, "one")
    states.append(bytes_in(folder))
    if operation != "write":
        edit(folder, "two")
        if operation == "redo":
            undo(folder)
    process = fork_server.start("-c", KILLED, folder, operation, cwd=fork_server.ROOT, imported=("pytest",))
    assert process.stdout.readline()
    process.kill()
    process.communicate()
    after_two = {name: b"two\r\n" for name in states[1]}
    middle = bytes_in(folder)
    assert middle not in (states[1], after_two)
    assert all(data in (states[1][name], b"two\r\n") for name, data in middle.items())  # each file is complete

    if then == "write":
        assert write_captions(folder, {folder / "bom.txt": "three"}, "three") == 1
        assert bytes_in(folder) == (states[1] if operation == "undo" else after_two) | {"bom.txt": b"three"}
        undo(folder)
        assert bytes_in(folder) == (states[1] if operation == "undo" else after_two)
    elif then == "undo":
        undo(folder)
        assert bytes_in(folder) == states[1]
    else:
        redo(folder)
        assert bytes_in(folder) == after_two
        undo(folder)
    while undo(folder).description:
        pass
    assert bytes_in(folder) == states[0]


def cancel(done: int, total: int, what: str) -> None:
    if done == 5:
        raise Cancelled


def test_cancel_and_errors_revert_the_edit(folder):
    with pytest.raises(Cancelled):
        edit(folder, "never", progress=cancel)
    assert bytes_in(folder) == ODD and not EditHistory(folder).edits() and undo(folder).description == ""
    edit(folder, "one")
    before = bytes_in(folder)
    with pytest.raises(Cancelled):
        edit(folder, "two", progress=cancel)
    with pytest.raises(Cancelled):
        undo(folder, cancel)
    assert bytes_in(folder) == before and [recorded.description for recorded in EditHistory(folder).edits()] == ["one"]
    (folder / "gone").write_bytes(b"")
    files = [FileChange(folder / name, data, b"x") for name, data in before.items()]
    with pytest.raises(UserError, match="in the way"):  # it can't be made there: a file stands where a folder should
        write_changes(folder, [*files, FileChange(folder / "gone" / "in the way.txt", None, b"x")], "three")
    (folder / "gone").unlink()
    assert bytes_in(folder) == before and undo(folder).description == "one"


def test_files_changed_by_others_are_left_and_named(folder):
    before = bytes_in(folder)
    edit(folder, "one")
    (folder / "bom.txt").write_bytes(b"by hand")
    (folder / "utf8.txt").unlink()
    done = undo(folder)
    assert done.n_files == len(ODD) - 1 and "bom.txt" in done.messages[0] and "utf8.txt" in done.messages[0]
    assert bytes_in(folder) == {name: data for name, data in before.items() if name != "utf8.txt"} | {
        "bom.txt": b"by hand"
    }
    with pytest.raises(UserError, match=r"bom\.txt, .*utf8\.txt changed since the preview"):
        write_changes(folder, [FileChange(folder / name, data, b"x") for name, data in before.items()], "stale")
    assert bytes_in(folder)["empty.txt"] == b""


def test_concurrent_writers(folder):
    before = bytes_in(folder)
    threads = [threading.Thread(target=edit, args=(folder, f"by {n}")) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(bytes_in(folder).values())) == 1  # one of them was last, in all files
    assert sum(bool(undo(folder).description) for _ in range(7)) == 6
    assert bytes_in(folder) == before


def test_the_oldest_edits_are_removed(folder, monkeypatch):
    monkeypatch.setattr(history, "MAX_EDITS", 3)
    for n in range(5):
        edit(folder, f"{n}")
    assert [recorded.description for recorded in EditHistory(folder).edits()] == ["2", "3", "4"]
    assert [undo(folder).description for _ in range(4)] == ["4", "3", "2", ""]
    assert bytes_in(folder)["new.txt"] == b"1\r\n"


@pytest.mark.parametrize(
    "path", ["../out.txt", "/tmp/out.txt", "C:\\out.txt", "a/../../out.txt", "..\\out.txt", ".git/hooks/out.txt", "", 7]
)
def test_a_history_that_leads_out_of_its_folder_is_rejected(folder, path):
    """A dataset may come from anywhere, and its history with it."""
    edit(folder, "one")
    before = bytes_in(folder.parent)
    with gzip.open(folder / ".dreambooth" / "captions" / "000002.jsonl.gz", "wt") as file:
        file.write(json.dumps({"what": "<b>", "when": "", "files": 1}) + "\n" + json.dumps([path, None, "evil"]) + "\n")
    with pytest.raises(UserError, match=r"000002\.jsonl\.gz: this edit can't be read"):
        redo(folder)
    assert bytes_in(folder.parent) == before
    assert undo(folder).description == "one"


@pytest.mark.parametrize(
    "data",  # without a time in it, which would give the test another name in each worker
    [b"", b"no gzip", gzip.compress(b"[]", mtime=0), gzip.compress(b"{}\n" * 9, mtime=0), b"\x1f\x8b\x08\0junk"],
)
def test_a_damaged_history_is_named_and_blocks_nothing(folder, data):
    edit(folder, "one")
    edit(folder, "two")
    home = folder / ".dreambooth" / "captions"
    (home / "000002.jsonl.gz").write_bytes(data)
    (home / "position.json").write_text("{broken")
    with pytest.raises(UserError, match=r"000002\.jsonl\.gz: this edit can't be read .* Remove the file to continue"):
        undo(folder)
    assert edit(folder, "three") and undo(folder).description == "three"
    (home / "000002.jsonl.gz").unlink()
    assert undo(folder).messages and bytes_in(folder)["new.txt"] == b"two\r\n"


def test_a_long_description_is_truncated(folder):
    write_captions(folder, {folder / "bom.txt": "x"}, "tag" * 10_000 + "\x1b[31m")
    assert len(undo(folder).description) == 200 and bytes_in(folder) == ODD


def test_a_missing_folder_is_not_created(folder):
    with pytest.raises(UserError, match="there is no such folder"):
        write_captions(folder / "gone", {folder / "gone" / "a.txt": "x"}, "one")
    assert not (folder / "gone").exists()


def test_files_outside_the_folder_are_not_written(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "out.txt"
    for path in (outside, folder / "x" / ".." / ".." / "out.txt"):
        with pytest.raises(UserError, match="is not in"):
            write_captions(folder, {folder / "bom.txt": "x", path: "x"}, "out")
    assert bytes_in(folder) == ODD and not outside.exists()
