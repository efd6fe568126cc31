"""Slow or hanging drives, and files that are written to: no file blocks the others forever."""

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

from dreambooth.captioning.base import CaptioningSummary, Prediction
from dreambooth.captioning.folder_captioning import caption_images, tasks_in
from dreambooth.captions.folder import read_captions
from dreambooth.captions.reading import CaptionSource
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

# Opening a file that another process has a lease on blocks until the lease is released (fcntl(2)).
HOLDING = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
for file in held:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(600)
"""


def make_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (128, 128), (number * 20, 0, 0)).save(path)
    return paths


@pytest.fixture
def hold():
    """``hold(*paths)``: from now on their drive does not respond."""
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


def test_a_file_that_does_not_respond_is_given_up(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_images(tmp_path / "toys", 6)
    hold(paths[2], paths[3])
    monkeypatch.setattr(file_reader, "RESPONSE_TIMEOUT", 0.5)
    plan = make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS)
    assert [example.path for example in plan.examples] == [paths[number] for number in (0, 1, 4, 5)]
    stalled = [note for note in plan.issues if note.kind == "stalled"]
    assert [(note.path, note.left_out) for note in stalled] == [(paths[2], True), (paths[3], True)]
    assert "did not respond for 0.5 seconds" in stalled[0].text


def test_a_lost_drive_is_reported_once(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_images(tmp_path / "toys", 12)
    hold(*paths)
    monkeypatch.setattr(file_reader, "RESPONSE_TIMEOUT", 0.2)
    with pytest.raises(UserError, match=r"png: the drive stopped responding"):
        make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS)


def test_preparation_and_captions_give_it_up_too(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "toys"
    paths = make_images(folder, 6)
    for path in paths:
        path.with_suffix(".txt").write_text("a toy")
    hold(paths[2], paths[4].with_suffix(".txt"))
    monkeypatch.setattr(file_reader, "RESPONSE_TIMEOUT", 0.5)
    preparation = planning.plan_preparation(folder, PrepareOptions())
    assert len(preparation.changes) == 4 and "2.png: the drive did not respond" in preparation.skipped[0]
    captions = read_captions(folder, CaptionSource())
    assert len(captions.files) == 5 and "4.png: the drive did not respond" in captions.problems[0]


class SizeCaptioner:
    """A captioner that returns the size of an image."""

    notes = ()

    def prepare(self, image: Image.Image) -> tuple[int, int]:
        return image.size

    def predict(self, prepared: list) -> list[Prediction]:
        return [Prediction(sentence=str(size)) for size in prepared]


def test_a_tagger_gives_up_files_and_drives(tmp_path: Path, hold, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_images(tmp_path / "toys", 22)
    paths[9].with_suffix(".txt").touch()
    hold(paths[1], *paths[10:], paths[9].with_suffix(".txt"))
    monkeypatch.setattr(file_reader, "RESPONSE_TIMEOUT", 0.3)
    options, summary, found = TagOptions(batch_size=3), CaptioningSummary(), []
    tasks = tasks_in(tmp_path / "toys", options, summary)
    with pytest.raises(UserError, match="stopped responding"):
        for one in caption_images(SizeCaptioner(), tasks, options, summary, lambda *_: None):
            found.append(one.task.image)
    assert found == [paths[number] for number in (0, *range(2, 9))]
    assert "9.txt: the drive did not respond" in summary.notes[0]
    assert "1.png: the drive did not respond" in summary.notes[1]


def test_late_results_are_ignored(tmp_path: Path) -> None:
    late = threading.Event()

    def read(number: int, reader: file_reader.Reader) -> int:
        if number == 1:
            late.wait(10)
        return number

    results = read_all(range(4), read, on_done=lambda done: late.set() if done == 4 else None, timeout=0.3)
    assert isinstance(results[1], UnusableFile) and results[1].kind == "stalled"
    assert [results[number] for number in (0, 2, 3)] == [0, 2, 3]


def test_files_deleted_or_created_after_the_listing(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "toys", 5)

    def meanwhile(done: int, total: int, what: str) -> None:
        if done == 1:
            paths[4].unlink(missing_ok=True)
            Image.new("RGB", (64, 64)).save(tmp_path / "toys" / "new.png")

    plan = make_plan([Concept(instance_data_dir=str(tmp_path / "toys"))], SETTINGS, progress=meanwhile)
    assert [example.path for example in plan.examples][:4] == paths[:4]
    for note in plan.issues:  # unless a reader was faster
        if note.left_out:
            assert (note.path, note.kind) == (paths[4], "vanished")


def test_a_file_is_read_again_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = make_images(tmp_path / "toys", 1)
    original, writes = file_reader._read, []

    def read(path: Path, size: int, heartbeat: object) -> bytes:
        data = original(path, size, heartbeat)
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
def test_files_without_permission_are_named() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "toys")
        locked = make_images(folder, 3)[1]
        make_images(folder / "closed", 1)
        Path(temporary).chmod(0o755)
        locked.chmod(0)
        (folder / "closed").chmod(0)
        with as_unprivileged_user():
            plan = make_plan([Concept(instance_data_dir=str(folder))], SETTINGS)
        (folder / "closed").chmod(0o755)
    assert [example.path.name for example in plan.examples] == ["0.png", "2.png"]
    left_out = {note.path: note.text for note in plan.issues if note.left_out}
    assert left_out.keys() == {locked, folder / "closed"}
    assert "Permission denied" in left_out[locked] and "folder can't be read" in left_out[folder / "closed"]


@contextlib.contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
