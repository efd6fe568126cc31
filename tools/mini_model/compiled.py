"""Kernels in C beside this file, compiled with the installed C compiler when they are first needed."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def library(name):
    """The compiled kernels of `name`.c, or None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="mini-model-"))
    target = folder / "kernels.so"
    source = Path(__file__).with_name(f"{name}.c")
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    try:
        subprocess.run([compiler, *flags, str(source), "-o", str(target), "-lm"], check=True, capture_output=True)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError):
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a loaded library no longer needs its file


def call(name, function, tensors, sizes, number):
    """Call a kernel with contiguous tensors, integers and a float."""
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(library(name), function)(*pointers, *sizes, ctypes.c_float(number))
