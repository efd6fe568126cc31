"""Layers: a package imports only from lower layers, its modules do not import each other in circles, and importing
the package changes nothing in the host's process.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import dreambooth

PACKAGE = Path(dreambooth.__file__).parent
ROOT = PACKAGE.parent
LAYERS = {
    "errors": 0, "types": 0, "text": 0, "threads": 0, "allocator": 0, "files": 0, "json_text": 0, "paths": 0,
    "settings": 0, "safetensors_header": 0, "tensor_files": 0, "autocast": 0,
    "jobs": 1, "distributed": 1, "models": 1, "images": 1, "hosts": 1, "embedded": 1, "terminal": 1,
    "checkpoints": 2, "memory": 2, "captions": 2, "presets": 2,
    "dataset": 3, "preparation": 3,
    "interop": 4,
    "sampling": 5, "captioning": 5, "training": 5,
    "runs": 6,
    "actions": 7,
    "cli": 8, "ui": 8, "demo": 8, "__main__": 9,
}  # fmt: skip
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}
SUBPACKAGES = sorted({name.rpartition(".")[0] for name in MODULES if name.count(".") > 1})


def _imports(name: str, only_at_start: bool = False) -> Iterator[str]:
    """The modules of this package that a module imports.

    ``only_at_start``: leave out imports inside of functions, and those for type checking.
    """
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree) if not only_at_start else _at_start(tree.body):
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.startswith("dreambooth.")], f"{name}: use from ... import"
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "dreambooth":
            continue
        base = (node.module or "").removeprefix("dreambooth").removeprefix(".")
        for alias in node.names:
            full = f"{base}.{alias.name}" if base else alias.name
            target = full if full in MODULES else base
            if target:
                yield target


def _at_start(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _at_start(getattr(node, inner, []))


@pytest.mark.parametrize("name", MODULES)
def test_packages_import_only_from_layers_below(name: str) -> None:
    package = name.split(".")[0]
    for target in _imports(name):
        other = target.split(".")[0]
        if other != package and not LAYERS[other] == LAYERS[package] == 0:
            assert LAYERS[other] < LAYERS[package], (
                f"{name} (layer {LAYERS[package]}) imports {target} ({LAYERS[other]})"
            )


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_imports_nothing_that_imports_it(subpackage: str) -> None:
    parent = subpackage.rpartition(".")[0]
    inside = [name for name in MODULES if name == subpackage or name.startswith(subpackage + ".")]
    used = {target for name in inside for target in _imports(name) if target not in inside}
    siblings = {target for target in used if target == parent or target.startswith(parent + ".")}
    above = {name for name in siblings if any(target in inside for target in _imports(name))}
    assert not above, f"{subpackage} imports {sorted(above)}, which import it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {target for target in _imports(name, only_at_start=True) if target != name} for name in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_cycles_and_upward_imports_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above find what they should: two modules that import each other, and one that imports upwards."""
    for name, text in {
        "images/one.py": "from dreambooth.images import two\n",
        "images/two.py": "if True:\n    from dreambooth.images.one import X\n",
        "images/three.py": "def f():\n    from dreambooth.runs import preflight\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        monkeypatch.setitem(MODULES, name.removesuffix(".py").replace("/", "."), path)
    with pytest.raises(pytest.fail.Exception, match=r"images\.(one|two)"):
        test_no_modules_import_each_other_in_a_circle()
    with pytest.raises(AssertionError, match=r"imports runs\.preflight"):
        test_packages_import_only_from_layers_below("images.three")


SCRIPT_IMPORT = re.compile(r"^from (dreambooth[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def test_scripts_in_strings_import_what_exists() -> None:
    """Tests start processes with scripts in strings; a name that a renaming missed would only show in a nightly run."""
    missing = []
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        scripts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        for module, names in SCRIPT_IMPORT.findall("\n".join(text for text in scripts if text.count("\n") > 1)):
            found = importlib.import_module(module)
            missing += [
                f"{path.name}: {module}.{name}"
                for name in (name.split(" as ")[0].strip() for name in names.split(","))
                if not hasattr(found, name) and not find_spec(f"{module}.{name}")
            ]
    assert not missing


QUIET = """
import logging, sys
handlers, level, path = list(logging.root.handlers), logging.root.level, list(sys.path)
import dreambooth.cli, dreambooth.actions, dreambooth.settings
assert "torch" not in sys.modules, "importing the entry points loads torch"
import dreambooth.runs.data_report
assert "torch" not in sys.modules, "a dataset preview without a model loads torch"
assert (logging.root.handlers, logging.root.level, sys.path) == (handlers, level, path)
"""


def test_importing_us_is_light_and_leaves_no_trace() -> None:
    subprocess.run([sys.executable, "-c", QUIET], check=True)
