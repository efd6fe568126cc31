"""``check`` for people: a short report; ``--verbose`` and ``--json`` have the rest."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import run
from tests.images.odd_images import encoded, noise


@pytest.fixture
def concepts(tmp_path):
    """Nine concepts with warnings of many kinds."""
    listed = []
    for number in range(9):
        folder = tmp_path / f"photos {number}"
        folder.mkdir()
        for image in range(3):
            size = (70 + 30 * number, 200 - 10 * number)
            (folder / f"{image}.png").write_bytes(encoded(noise(number * 10 + image, size, "RGBA"), "PNG"))
        (folder / "0.txt").write_text(f"a zwx toy {number}" + ", very long" * (50 if number == 3 else 0))
        (folder / "1.txt").write_text("a (zwx:1.2) toy")
        (folder / "lost.txt").write_text("a caption alone")
        (folder / "clip.mp4").write_bytes(b"video")
        (folder / "phone.heic").write_bytes(b"photo")
        listed.append({"instance_data_dir": folder.name, "num_repeats": number + 1})
    (tmp_path / "concepts.json").write_text(json.dumps(listed))
    return tmp_path / "concepts.json"


def test_the_report_fits_on_a_screen(mini, concepts):
    arguments = ["check", "mini", "--models-dir", mini.folders.models, "--concepts", concepts,
                 "--set", "resolution=128", "use_lora=true", "lora_unet_rank=8", "stop_text_encoder=0.5"]  # fmt: skip
    report = json.loads(run(*arguments, "--json").stdout)
    assert len(report["warnings"]) > 7 and report["pictures"] == 27
    done = run(*arguments)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) <= 26 and max(map(len, lines)) <= 301
    shown = {line[:14].strip(): line[14:].strip() for line in lines}
    assert shown["trained"].startswith("LoRA: UNet (rank 8), text encoder (rank 4); the text encoder for the first 50%")
    assert shown["images"] == "27 images, 18 files left out"
    assert 'photos 1: 3 images x 2, such as "a zwx toy 1"' in shown["concept 2"]
    assert shown["steps"].startswith(f"{report['steps']:,} in 100 epochs (")
    assert "LoRA" in shown["disk"] and "free" in shown["disk"] and "on cpu" in shown["memory"]
    assert f"mini: no problems, {len(report['warnings'])} warnings:" in lines
    assert f"  … and {len(report['warnings']) - 6} more (--verbose has all)" in lines
    verbose = run(*arguments, "--verbose").stdout
    assert max(map(len, verbose.splitlines())) < 700
    assert all(f"a zwx toy {number}" in verbose for number in range(9))


def test_problems_are_listed_alone(mini, tmp_path):
    done = run("check", "mini", "--models-dir", mini.folders.models, "--concepts", tmp_path / "none", "--set", "rank=4")
    assert done.returncode == 1 and not done.stdout
    assert "set lora_unet_rank and lora_txt_rank" in done.stderr and "none" in done.stderr
