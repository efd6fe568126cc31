"""Tiny packages for pip to install, so that installation can be tested quickly and without a network."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str, code: str = "", main: str = "", requires: tuple[str, ...] = ()
) -> None:
    """A pure Python wheel with one package: ``code`` is its __init__.py, ``main`` its __main__.py."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    files = {
        f"{name}/__init__.py": code,
        f"{name}/__main__.py": main,
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def offline(wheels: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose pip only finds ``wheels``."""
    ours = ("TORCH_COMMAND", "PYTHONPATH", "COMMANDLINE_ARGS", "INDEX_URL")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") and k not in ours}
    return {
        **clean,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **more,
    }
