"""Broken and odd files: each is named with its cause, none stops the others, none takes the process with it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from dreambooth.text import escape_unprintable
from tests.images.odd_images import odd_pictures

MEMORY = 2 * 2**30  # bytes of address space; a picture of 30,000 x 30,000 alone would be 2.7e9


@pytest.mark.skipif(os.name == "nt", reason="pipes, sockets, and names that Windows doesn't allow")
def test_each_odd_file_is_named_with_its_cause(tmp_path: Path) -> None:
    odd = odd_pictures()
    assert len(odd) > 100
    for name, (make, _) in odd.items():
        make(tmp_path / name)
    process = subprocess.run(
        [sys.executable, "-m", "tests.images.odd_images", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    told = json.loads(process.stdout)
    notes: dict[str, set[str]] = defaultdict(set)
    left_out, said = set(), {}
    for name, kind, is_left_out, text in told["notes"]:
        notes[name].add(kind)
        assert text and text == escape_unprintable(text), name
        said[name] = text
        if is_left_out:
            left_out.add(name)
    assert "HEIC" in said["phone, called.jpg"] and "web page" in said["page.jpg"] and "SVG" in said["drawing.png"]

    wanted = {name: kind for name, (_, kind) in odd.items() if kind}
    wrong = {name: (kind, notes[name]) for name, kind in wanted.items() if kind.removeprefix("*") not in notes[name]}
    assert not wrong
    assert left_out == {name for name, kind in wanted.items() if kind.startswith("*")}
    plain = {name for name, (_, kind) in odd.items() if not kind}
    unasked = {name: notes[name] - {"no-caption", "no-words"} for name in plain if name in notes}
    assert not {name: kinds for name, kinds in unasked.items() if kinds}
    pictures = {name for name in odd if not name.endswith(".txt")} - left_out - {"round and round"}
    assert sorted(told["planned"]) == sorted(pictures)
    assert all(warning == escape_unprintable(warning) for warning in told["warnings"])
