"""launch.py as a separate process, on a copy with tiny requirements: real venv, real pip, no network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.allocator import VARIABLES
from tests.wheels import make_wheel, offline

ROOT = Path(__file__).resolve().parents[2]
NO_TORCH = "pip --version"  # succeeds and installs nothing
ECHO = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("OMP_WAIT_POLICY")]))
sys.exit(len(sys.argv))
"""
COUNT_INTERRUPTS = """
import signal, sys, time
count = 0
def interrupted(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, interrupted)
print("ready", flush=True)
while not count:
    time.sleep(0.02)
time.sleep(0.5)
sys.exit(100 + count)
"""


class Copy:
    """A checkout with only the launcher, its requirements and the programs it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheels = folder / "checkout", folder / "wheels"
        for path, text in {
            "dreambooth/__init__.py": "",
            "dreambooth/__main__.py": ECHO,
            "dreambooth/ui/__init__.py": "",
            "dreambooth/ui/__main__.py": COUNT_INTERRUPTS,
            "requirements-standalone.txt": "tinyone==1.0\n",
            "requirements-test.txt": "pytest==99.0\n",
        }.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        shutil.copy(ROOT / "launch.py", self.folder)
        make_wheel(self.wheels, "tinyone", "1.0")
        make_wheel(self.wheels, "tinyone", "2.0")
        make_wheel(self.wheels, "pytest", "99.0", main="import sys; print('suite', sys.argv[1:])")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.folder / "launch.py"), *words]

    def environment(self, torch_command: str | None = NO_TORCH, **more: str) -> dict[str, str]:
        environment = offline(self.wheels, **({"TORCH_COMMAND": torch_command} if torch_command else {}))
        environment.pop("OMP_WAIT_POLICY", None)  # the test suite sets it
        return environment | more

    def run(self, *words: str, torch_command: str | None = NO_TORCH, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment(torch_command, **more),
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = Copy(tmp_path_factory.mktemp("launch"))
    first = copy.run("create", "a model", "--half")
    assert "The environment is ready" in first.stderr, first.stderr
    assert json.loads(first.stdout) == [["create", "a model", "--half"], str(copy.folder.parent), "passive"]
    assert first.returncode == 4  # the exit code of the program
    return copy


def test_second_start_installs_nothing_and_remembers_torch_command(copy):
    again = copy.run("check", torch_command=None)
    assert (again.stderr, again.returncode) == ("", 2)


def test_wait_policy_of_the_user_is_kept(copy):
    assert json.loads(copy.run("check", OMP_WAIT_POLICY="active").stdout)[2] == "active"


ENDS_AT_TORCH = """
import os, runpy, sys
class EndsAtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
            print(*map(os.environ.get, names), flush=True)
            os._exit(0)
sys.meta_path.insert(0, EndsAtTorch())
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
import torch
"""


@pytest.mark.parametrize("arguments", [["dreambooth", "demo"], ["dreambooth.ui", "--port", "0"]], ids=" ".join)
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "passive 2000 expandable_segments:True None"),
        ({"OMP_WAIT_POLICY": "active"}, "active None expandable_segments:True None"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}, "passive 2000 None max_split_size_mb:512"),
    ],
)
def test_threads_and_allocator_are_set_before_torch_is_imported(arguments, own, expected, tmp_path):
    """Without the launcher too; what the user has set is kept."""
    variables = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", *VARIABLES)
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    environment |= {"PYTHONPATH": str(ROOT), **own}
    command = [sys.executable, "-c", ENDS_AT_TORCH, *arguments]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if sys.platform != "linux":
        expected = expected.replace("expandable_segments:True", "None")
    assert (run.returncode, run.stdout) == (0, f"{expected}\n"), run.stderr


def test_changed_requirements_are_installed(copy):
    (copy.folder / "requirements-standalone.txt").write_text("tinyone==2.0\n")
    assert "Successfully installed tinyone-2.0" in copy.run("check").stderr
    assert copy.run("check").stderr == ""


def test_the_suite_gets_its_own_requirements_and_arguments(copy):
    tests = copy.run("test", "-k", "one or two")
    assert (
        "'--dist', 'worksteal', '-k', 'one or two']" in tests.stdout
        and "Installing requirements-test.txt" in tests.stderr
    )
    assert copy.run("test").stderr == ""


def test_lint_runs_all_checks_in_the_checkout_and_fails_if_one_of_them_does(copy):
    check = "import os, sys; print({0!r}, sys.argv[1:], os.getcwd()); sys.exit({0!r} in os.environ.get('FAILING', ''))"
    for tool in ("ruff", "pyright"):
        make_wheel(copy.wheels, tool, "9.0", main=check.format(tool))
    (copy.folder / "requirements-test.txt").write_text("pytest==99.0\nruff==9.0\npyright==9.0\n")
    assert copy.run("lint").returncode == 0  # and installs what it needs
    python = copy.folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    calls = [
        f"ruff ['check', '.'] {copy.folder}",
        f"ruff ['format', '--check', '.'] {copy.folder}",
        f"pyright {['--pythonpath', str(python)]} {copy.folder}",
    ]
    clean, failing = copy.run("lint"), copy.run("lint", FAILING="ruff")
    assert (clean.returncode, clean.stderr.splitlines()) == (0, calls)
    assert failing.returncode == 1
    assert failing.stderr.splitlines() == [*calls, "Failed: ruff check .", "Failed: ruff format --check ."]
    assert copy.run("lint", FAILING="pyright").returncode == 1
    assert copy.run("lint", "dreambooth").returncode == 2


def test_an_incomplete_environment_is_repaired(copy):
    """As left behind by a killed first start: no marker, no pip, no Python."""
    shutil.rmtree(copy.folder / ".venv")
    (copy.folder / ".venv" / "bin").mkdir(parents=True)
    repaired = copy.run("check")
    assert "Creating" in repaired.stderr and repaired.returncode == 2
    (copy.folder / ".venv" / "dreambooth-installed.json").unlink()
    again = copy.run("check")
    assert "Creating" not in again.stderr and "The environment is ready" in again.stderr


def test_a_failed_installation_is_reported_and_can_be_retried(copy):
    requirements = copy.folder / "requirements-standalone.txt"
    good = requirements.read_text()
    requirements.write_text("no-such-package==1.0\n")
    failed = copy.run("check")
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.splitlines()[-1].startswith("Installation failed")
    requirements.write_text(good)
    assert copy.run("check").returncode == 2


def test_a_failing_torch_command_is_reported(copy):
    failed = copy.run("check", torch_command="pip install no-such-torch")
    assert failed.returncode == 1 and "TORCH_COMMAND failed" in failed.stderr


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent from a test on Windows")
def test_ctrl_c_reaches_the_program_once(copy):
    """As from a terminal: the signal goes to the whole process group."""
    assert copy.run("check").returncode == 2  # everything is installed
    process = subprocess.Popen(
        copy.command("ui"),
        env=copy.environment(),
        cwd=copy.folder.parent,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 101
    process.stdout.close()


def test_help_installs_nothing(tmp_path):
    copy = Copy(tmp_path)
    help_text = copy.run("--help")
    assert help_text.returncode == 0 and "python launch.py demo" in help_text.stdout
    assert not (copy.folder / ".venv").exists()


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0)])
def test_an_unsupported_python_gets_one_line(version):
    code = f"import sys; sys.version_info = {version}; exec(compile(open('launch.py').read(), 'launch.py', 'exec'))"
    refused = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == f"Python 3.10, 3.11, 3.12 or 3.13 is required; this is {version[0]}.{version[1]}.\n"


@pytest.mark.parametrize(
    ("answer", "platform", "build"),
    [
        ("8.6", "linux", ""), ("8.6", "win32", "cu130"), ("6.1", "linux", "cu126"), ("6.1", "win32", "cu126"),
        ("8.9\n7.0", "linux", "cu126"), ("[N/A]", "linux", ""), ("", "win32", "cu130"),
    ],
)  # fmt: skip
@pytest.mark.skipif(os.name == "nt", reason="the fake nvidia-smi is a shell script")
def test_old_gpus_get_a_build_with_kernels_for_them(answer, platform, build, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    fake.chmod(0o755)
    code = (
        "import sys, types, launch; of, name = sys.argv[1:]; "
        "launch.sys, launch.os = types.SimpleNamespace(platform=of), types.SimpleNamespace(name=name); "
        "print(launch.torch_build())"
    )
    name = "nt" if platform == "win32" else "posix"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", code, platform, name]
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout == f"{build}\n"
