"""Lists of a WebUI that is clearing and refilling them are read until they are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.hosts.file_list import ATTEMPTS, FileList


@pytest.fixture
def files(tmp_path):
    """``files(*names)``: the host's entries of these files, which exist."""

    def make(*names: str) -> list[tuple[str, Path]]:
        for name in names:
            (tmp_path / name).touch()
        return [(f"{name} [12ab]", tmp_path / name) for name in names]

    return make


class HostList:
    """What a host's list holds at each read, one step after the other; the last one stays."""

    def __init__(self, *steps, on_disk=frozenset()):
        self.steps, self.waits = list(steps), 0
        self.list = FileList(self._read, lambda: set(on_disk), self._wait)

    def _read(self):
        step = self.steps[0]
        if len(self.steps) > 1:
            self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def _wait(self, seconds: float) -> None:
        self.waits += 1


def paths(entries) -> set[Path]:
    return {path for _, path in entries}


def test_a_list_that_is_being_filled_is_read_again(files):
    """Also when it changes between two steps of reading it, as Python then reports."""
    full = files("a.ckpt", "b.ckpt")
    changing = RuntimeError("dictionary changed size during iteration")
    assert HostList([], [], full[:1], changing, full, on_disk=paths(full)).list.get() == full
    assert HostList(changing, KeyError("a"), full, on_disk=paths(full)).list.get() == full


def test_an_emptied_list_does_not_replace_the_last_good_one(files):
    """What was listed and still exists is waited for: the host is refilling its list."""
    full = files("a.ckpt", "b.ckpt")
    host = HostList(full, full, [], [], full[1:], full[1:], full)
    assert host.list.get() == full and host.list.get() == full


def test_reading_an_unchanged_list_does_not_wait(files):
    host = HostList(files("a.ckpt"))
    host.list.get()
    waited = host.waits
    assert host.list.get() and host.waits == waited


def test_a_removed_file_leaves_the_list(files):
    full = files("a.ckpt", "b.ckpt")
    host = HostList(full, full, full[:1])
    host.list.get()
    full[1][1].unlink()
    assert host.list.get() == full[:1]


def test_a_host_that_does_not_list_a_file_is_accepted_in_the_end(files):
    """A file was copied into its folder, or a file was taken off its list: it is not waited for at each read."""
    full = files("a.ckpt", "new.ckpt")
    host = HostList(full[:1], on_disk=paths(full))
    assert host.list.get() == full[:1] and host.waits == ATTEMPTS
    assert host.list.get() == full[:1] and host.waits == ATTEMPTS


def test_an_unreadable_list_gives_the_last_good_one(files):
    full = files("a.ckpt")
    host = HostList(full, full, RuntimeError("changed"))
    assert host.list.get() == full and host.list.get() == full
    assert HostList(RuntimeError("changed")).list.get() == []
