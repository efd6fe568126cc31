"""Pythons with the WebUIs' versions of Gradio: small environments on top of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[2] / "build"
# What the hosts pin along with Gradio, as far as the page depends on it.
PINS = {
    "3.41.2": ["fastapi==0.94.0", "pydantic==1.10.27", "starlette==0.26.1", "pillow<11", "numpy<2"],  # A1111
    "4.40.0": ["fastapi==0.104.1", "pydantic==2.8.2", "huggingface_hub==0.36.2", "transformers==4.57.6",
               "diffusers==0.37.1"],  # Forge
}  # fmt: skip


def python_with(version: str) -> str:
    """A Python with this version of Gradio, "" for the tests' own. Skips the test if pip can't install it."""
    if not version:
        return sys.executable
    folder = BUILD / f"gradio-{version}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "complete.txt"
    pins = [f"gradio=={version}", *PINS[version]]
    if not done.exists() or done.read_text().split("\n") != pins:
        _make(folder, python, pins)
        done.write_text("\n".join(pins))
    return str(python)


def _make(folder: Path, python: Path, pins: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    [packages] = folder.glob("Lib/site-packages") if os.name == "nt" else folder.glob("lib/python*/site-packages")
    # "zz": processed last, so that packages installed here take precedence
    (packages / "zz_base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [str(python), "-m", "pip", "install", "-q", "--ignore-installed", "--disable-pip-version-check", *pins]
    made = subprocess.run(pip, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"pip could not get {pins[0]}: {made.stderr.strip().splitlines()[-1]}")
