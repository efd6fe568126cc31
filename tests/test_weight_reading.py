"""Weight files are read in one place, which validates the whole header and executes nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dreambooth

PACKAGE = Path(dreambooth.__file__).parent

# Functions that read weights or execute code from files. Weight files are opened only by checkpoints/reading.py and
# tensor_files.py, which validate the whole header and execute nothing.
READER_MODULES = {"safetensors", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
READER_CALLS = {
    "torch.load", "torch.jit.load", "torch.from_file", "torch.package.PackageImporter",
    "torch.hub.load_state_dict_from_url", "torch.serialization.load", "numpy.load", "numpy.fromfile", "numpy.memmap",
}  # fmt: skip
ALLOWED = {("checkpoints/inspection.py", "safetensors")}  # compares our reading with the library's, for the report


def _weight_readers(source: str) -> set[str]:
    """The modules and functions above that the source imports or calls, under any name."""
    tree, names, found = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
                found.add(top)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            found.add(".".join([names.get(dotted[0], dotted[0]), *dotted[1:]]))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(a.value).split(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found & (READER_MODULES | READER_CALLS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_weights_are_read_in_one_place(path):
    name = path.relative_to(PACKAGE).as_posix()
    readers = {(name, reader) for reader in _weight_readers(path.read_text(encoding="utf-8"))}
    assert readers <= ALLOWED, "open weight files with checkpoints.reading.open_tensors or tensor_files.read_tensors"


@pytest.mark.parametrize(
    ("source", "reader"),
    [
        ("from safetensors.torch import load_file", "safetensors"),
        ("def f():\n    import safetensors.torch as st", "safetensors"),
        ("import torch as t\nt.load('a.pt')", "torch.load"),
        ("from torch import load as read", "torch.load"),
        ("import numpy as np\nnp.load('a.npy', allow_pickle=True)", "numpy.load"),
        ("import importlib\nimportlib.import_module('pickle')", "pickle"),
        ("import torch.hub\ntorch.hub.load_state_dict_from_url('x')", "torch.hub.load_state_dict_from_url"),
    ],
)
def test_each_way_of_reading_weights_is_recognized(source, reader):
    assert reader in _weight_readers(source)
