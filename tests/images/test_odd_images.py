"""Broken and unusual files: each is reported with its cause, none stops the others or crashes the process."""

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
from tests.images.odd_images import odd_images

MEMORY = 2 * 2**30  # bytes of address space; an image of 30,000 x 30,000 alone would be 2.7e9


@pytest.mark.skipif(os.name == "nt", reason="pipes, sockets, and names that Windows doesn't allow")
def test_each_odd_file_is_named_with_its_cause(tmp_path: Path) -> None:
    odd = odd_images()
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
    printed = json.loads(process.stdout)
    kinds: dict[str, set[str]] = defaultdict(set)
    left_out, texts = set(), {}
    for name, kind, is_left_out, text in printed["notes"]:
        kinds[name].add(kind)
        assert text and text == escape_unprintable(text), name
        texts[name] = text
        if is_left_out:
            left_out.add(name)
    assert texts["no ending, a program"].endswith("ignored, as is 1 other file without an extension.")
    assert "HEIC" in texts["phone, called.jpg"] and "web page" in texts["page.jpg"] and "SVG" in texts["drawing.png"]

    wanted = {name: kind for name, (_, kind) in odd.items() if kind}
    wrong = {name: (kind, kinds[name]) for name, kind in wanted.items() if kind.removeprefix("*") not in kinds[name]}
    assert not wrong
    assert left_out == {name for name, kind in wanted.items() if kind.startswith("*")}
    plain = {name for name, (_, kind) in odd.items() if not kind}
    unasked = {name: kinds[name] - {"no-caption", "no-words"} for name in plain if name in kinds}
    assert not {name: extra for name, extra in unasked.items() if extra}
    side_files = {name for name, kind in wanted.items() if kind == "side-file"} | {"pipe"}  # one named per ending
    images = {name for name in odd if not name.endswith(".txt")} - left_out - side_files - {"round and round"}
    assert sorted(printed["planned"]) == sorted(images)
    assert all(warning == escape_unprintable(warning) for warning in printed["warnings"])
