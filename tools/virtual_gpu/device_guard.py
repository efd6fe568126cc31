"""Compiles device_guard.cpp once for the installed torch, and loads it. Does not import torch."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("device_guard.cpp")
BUILD = Path(__file__).resolve().parents[2] / "build" / "virtual_gpu"
OLDEST_TORCH = (2, 13)  # its C++ interfaces differ between releases


class Unavailable(Exception):
    """There is no virtual GPU on this machine; the message says why."""


@functools.cache
def built_guard() -> Path:
    """The shared library, compiled now if it is not in the build folder. Unavailable without what that needs."""
    folder, version = _torch()
    compiler = shutil.which("g++") or shutil.which("clang++")
    if sys.platform != "linux" or compiler is None:
        raise Unavailable("The virtual GPU needs Linux and a C++ compiler (g++ or clang++).")
    digest = hashlib.sha256(f"{version} {folder} {compiler}".encode() + SOURCE.read_bytes()).hexdigest()
    library = BUILD / f"device_guard-{digest[:16]}.so"
    if not library.exists():
        _compile(compiler, folder, library)
    return library


def load_guard() -> None:
    """Register the guard in this process, in which torch must not have been imported yet."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already; it looks for the hooks of a GPU only then.")
    ctypes.CDLL(str(built_guard()), mode=ctypes.RTLD_GLOBAL)


def _torch() -> tuple[Path, str]:
    """Folder and version of the installed torch. Unavailable if its C++ interfaces are others."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("torch is not installed.")
    folder = Path(spec.submodule_search_locations[0])
    facts = runpy.run_path(str(folder / "version.py"))
    version = str(facts["__version__"])
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TORCH:
        raise Unavailable(f"The virtual GPU needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, not {version}.")
    if facts["cuda"] or facts["hip"]:
        raise Unavailable(f"The virtual GPU needs a torch for the CPU; {version} has a GPU's own device guard.")
    return folder, version


def _compile(compiler: str, torch: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_name(f"{library.stem}.{os.getpid()}.so")
    include = [f"-I{torch / 'include'}", f"-I{torch / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch / 'lib'}"]
    command = [compiler, "-O1", "-shared", "-fPIC", "-std=c++20", *include, str(SOURCE), "-o", str(unfinished)]
    done = subprocess.run([*command, *libraries], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr[-3000:]}")
    unfinished.replace(library)
