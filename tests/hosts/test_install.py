"""install.py in the environment of a WebUI: a real venv with A1111's versions, real pip, tiny packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheels import make_wheel, offline

ROOT = Path(__file__).resolve().parents[2]
A1111Host = {
    "torch": "2.1.2+cu121",
    "transformers": "4.30.2",
    "accelerate": "0.21.0",
    "safetensors": "0.4.2",
    "pillow": "9.5.0",
    "numpy": "1.26.2",
    "tqdm": "4.65.0",
    "filelock": "3.12.0",
    "regex": "2023.6.3",
}
DIFFUSERS = "AutoencoderKL = UNet2DConditionModel = None"


class Environment:
    """A venv whose pip only finds the wheels in a folder."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.venv = folder / "wheels", folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True)
        self.python = self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        for name, version in A1111Host.items():
            make_wheel(self.wheels, name, version, code="CLIPTextModel = None")
            make_wheel(self.wheels, name, "99.0")  # newer versions exist, and must not be installed
        self.pip("install", "-q", *(f"{name}=={version}" for name, version in A1111Host.items()))

    def pip(self, *args: str) -> str:
        command = [str(self.python), "-m", "pip", *args]
        return subprocess.run(command, env=offline(self.wheels), capture_output=True, text=True, check=True).stdout

    def install(self, *args: str, **variables: str) -> str:
        """Output of install.py, which must never fail."""
        command = [str(self.python), str(ROOT / "install.py"), *args]
        environment = offline(self.wheels, **variables)
        done = subprocess.run(command, env=environment, cwd=self.venv, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def frozen(self) -> set[str]:
        return set(self.pip("freeze").split())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("webui"))


def test_missing_packages_are_installed_and_nothing_else_changes(environment):
    before = environment.frozen()
    assert environment.install("--skip-install") == ""
    assert environment.install(COMMANDLINE_ARGS="--api --skip-install") == ""

    output = environment.install()  # no wheel yet: a single line
    assert "pip could not install diffusers==0.30.3" in output and environment.frozen() == before

    make_wheel(environment.wheels, "diffusers", "0.42.1", DIFFUSERS)
    make_wheel(environment.wheels, "diffusers", "0.30.3", DIFFUSERS, requires=("numpy>=2",))
    assert "pip could not install diffusers==0.30.3" in environment.install() and environment.frozen() == before

    # a folder that pip left behind of an older numpy is not numpy
    leftover = next(environment.venv.rglob("numpy-1.26.2.dist-info")).with_name("~umpy-1.0.dist-info")
    leftover.mkdir()
    (leftover / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    make_wheel(environment.wheels, "diffusers", "0.30.3", DIFFUSERS, requires=("numpy", "pillow", "extra"))
    make_wheel(environment.wheels, "extra", "1.0")
    make_wheel(environment.wheels, "tomlkit", "0.14.0")
    assert environment.install().splitlines()[-1] == "Dreambooth: done."
    shutil.rmtree(leftover)  # where the file system lists it first, pip freeze leaves numpy out
    assert environment.frozen() == before | {"diffusers==0.30.3", "extra==1.0", "tomlkit==0.14.0"}

    assert environment.install() == ""  # the second start


def test_outdated_packages_are_reported_and_not_changed(environment):
    make_wheel(environment.wheels, "accelerate", "0.12.0")
    make_wheel(environment.wheels, "diffusers", "0.30.3", DIFFUSERS)
    make_wheel(environment.wheels, "tomlkit", "0.14.0")
    environment.pip("install", "-q", "accelerate==0.12.0", "diffusers==0.30.3", "tomlkit==0.14.0")
    assert environment.install() == (
        "Dreambooth: accelerate 0.12.0 is older than 0.21, the oldest supported version. Update the WebUI.\n"
    )
    environment.pip("install", "-q", "accelerate==0.21.0")


def test_failing_imports_are_reported(environment):
    environment.pip("uninstall", "-q", "-y", "diffusers")
    make_wheel(environment.wheels, "tomlkit", "0.14.0")
    make_wheel(environment.wheels, "diffusers", "0.30.3", "import a_missing_library")
    output = environment.install()
    assert "the import fails" in output and "a_missing_library" in output
