"""A drive that may be slow, stuck, or written to by somebody else: no file keeps the others waiting for ever."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.captioning.base import Answer, Counted
from dreambooth.captioning.folder_captioning import captioned, wanted_in
from dreambooth.captions.folder import read_captions
from dreambooth.captions.reading import CaptionFiles
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.images import file_reader
from dreambooth.images.file_reader import read_all, read_bytes
from dreambooth.images.issues import UnusableFile
from dreambooth.preparation import planning
from dreambooth.settings import Concept, Settings
from dreambooth.settings.preparation import PrepareOptions
from dreambooth.settings.tagging import TagOptions

SETTINGS = Settings(resolution=128, bucket_step=8)

# Whoever opens a file that another process has a lease on waits until that one gives it back (fcntl(2)).
HOLDING = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
for file in held:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(600)
"""


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (128, 128), (number * 20, 0, 0)).save(path)
    return paths


@pytest.fixture
def hold():
    """``hold(*paths)``: from now on their drive gives no answer."""
    if not sys.platform.startswith("linux"):
        pytest.skip("leases are Linux's")
    holders = []

    def holding(*paths: Path) -> None:
        command = [sys.executable, "-c", HOLDING, *map(str, paths)]
        holders.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        if holders[-1].stdout.readline() != "held\n":
            pytest.skip("this file system knows no leases")

    yield holding
    for holder in holders:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_a_file_that_gives_no_answer_is_left_behind(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pictures(tmp_path / "toys", 6)
    hold(paths[2], paths[3])
    monkeypatch.setattr(file_reader, "PATIENCE", 0.5)
    plan = make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS)
    assert [example.path for example in plan.examples] == [paths[number] for number in (0, 1, 4, 5)]
    stalled = [note for note in plan.notes if note.kind == "stalled"]
    assert [(note.path, note.left_out) for note in stalled] == [(paths[2], True), (paths[3], True)]
    assert "did not respond for 0.5 seconds" in stalled[0].text


def test_a_drive_that_is_gone_is_said_once(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pictures(tmp_path / "toys", 12)
    hold(*paths)
    monkeypatch.setattr(file_reader, "PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"png: the drive stopped responding"):
        make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS)


def test_whoever_prepares_or_captions_leaves_it_behind_too(
    tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toys"
    paths = pictures(folder, 6)
    for path in paths:
        path.with_suffix(".txt").write_text("a toy")
    hold(paths[2], paths[4].with_suffix(".txt"))
    monkeypatch.setattr(file_reader, "PATIENCE", 0.5)
    preparation = planning.plan(folder, PrepareOptions())
    assert len(preparation.changes) == 4 and "2.png: the drive did not respond" in preparation.skipped[0]
    captions = read_captions(folder, CaptionFiles())
    assert len(captions.files) == 5 and "4.png: the drive did not respond" in captions.problems[0]


class Colours:
    """A captioner that names the size of a picture."""

    notes = ()

    def prepare(self, picture: Image.Image) -> tuple[int, int]:
        return picture.size

    def answer(self, prepared: list) -> list[Answer]:
        return [Answer(sentence=str(size)) for size in prepared]


def test_a_tagger_leaves_it_behind_and_gives_a_drive_up(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = pictures(tmp_path / "toys", 22)
    paths[9].with_suffix(".txt").touch()
    hold(paths[1], *paths[10:], paths[9].with_suffix(".txt"))
    monkeypatch.setattr(file_reader, "PATIENCE", 0.3)
    options, counted, found = TagOptions(batch_size=3), Counted(), []
    wanted = wanted_in(tmp_path / "toys", options, counted)
    with pytest.raises(UserError, match="stopped responding"):
        for one in captioned(Colours(), wanted, options, counted, lambda *_: None):
            found.append(one.wanted.picture)
    assert found == [paths[number] for number in (0, *range(2, 9))]
    assert ["9.txt: the drive did not respond" in counted.notes[0], "1.png: the drive did not respond" in counted.notes[1]] == [True, True]


def test_answers_that_come_late_change_nothing(tmp_path: Path) -> None:
    late = threading.Event()

    def read(number: int, reader: file_reader.Reader) -> int:
        if number == 1:
            late.wait(10)
        return number

    results = read_all(range(4), read, on_done=lambda done: late.set() if done == 4 else None, patience=0.3)
    assert isinstance(results[1], UnusableFile) and results[1].kind == "stalled"
    assert [results[number] for number in (0, 2, 3)] == [0, 2, 3]


def test_what_vanishes_or_comes_after_the_listing(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "toys", 5)

    def meanwhile(done: int, total: int, what: str) -> None:
        if done == 1:
            paths[4].unlink(missing_ok=True)
            Image.new("RGB", (64, 64)).save(tmp_path / "toys" / "new.png")

    plan = make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS, progress=meanwhile)
    assert [example.path for example in plan.examples][:4] == paths[:4]
    for note in plan.notes:  # unless a reader was faster
        if note.left_out:
            assert (note.path, note.kind) == (paths[4], "vanished")


def test_a_file_that_is_being_written_is_read_when_it_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = pictures(tmp_path / "toys", 1)
    really, writes = file_reader._read, []

    def read(path: Path, size: int, beat: object) -> bytes:
        data = really(path, size, beat)
        if len(writes) < left:
            writes.append(path)
            with path.open("ab") as file:
                file.write(b"more")
        return data

    monkeypatch.setattr(file_reader, "_read", read)
    left = 1
    assert read_bytes(path).endswith(b"more")
    left = 100
    with pytest.raises(UnusableFile, match="is being written to"):
        read_bytes(path)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_what_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "toys")
        locked = pictures(folder, 3)[1]
        pictures(folder / "closed", 1)
        Path(temporary).chmod(0o755)
        locked.chmod(0)
        (folder / "closed").chmod(0)
        with as_somebody():
            plan = make_plan([Concept(instance_data_dir=str(folder))], SETTINGS)
        (folder / "closed").chmod(0o755)
    assert [example.path.name for example in plan.examples] == ["0.png", "2.png"]
    left_out = {note.path: note.text for note in plan.notes if note.left_out}
    assert left_out.keys() == {locked, folder / "closed"}
    assert "Permission denied" in left_out[locked] and "folder can't be read" in left_out[folder / "closed"]


@contextlib.contextmanager
def as_somebody() -> Iterator[None]:
    """Not as root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
