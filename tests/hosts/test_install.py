"""install.py in the environment of a WebUI: a real venv with A1111's versions, real pip, tiny packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
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
        self.wheels, self.venv, self.extension = folder / "wheels", folder / "venv", folder / "extension"
        self.extension.mkdir()
        for name in ("install.py", "requirements.txt"):  # it remembers in its own folder what it tried
            shutil.copy(ROOT / name, self.extension)
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
        command = [str(self.python), str(self.extension / "install.py"), *args]
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
    output = environment.install()
    assert "Dreambooth: done.\n" in output and "pip could not install bitsandbytes==0.45.5" in output
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


def test_bitsandbytes_is_added_once_and_removed_where_it_breaks_imports(environment):
    for name, version, code in (("diffusers", "0.30.3", DIFFUSERS), ("tomlkit", "0.14.0", "")):
        make_wheel(environment.wheels, name, version, code)
    environment.pip("uninstall", "-q", "-y", "diffusers")
    environment.pip("install", "-q", "diffusers==0.30.3", "tomlkit==0.14.0")
    tried, before = environment.extension / "build" / "bitsandbytes.txt", environment.frozen()
    tried.unlink(missing_ok=True)
    make_wheel(environment.wheels, "bitsandbytes", "0.50.2", requires=("torch>=2.4",))
    make_wheel(environment.wheels, "bitsandbytes", "0.45.5", "import triton.ops", requires=("torch", "scipy"))
    make_wheel(environment.wheels, "scipy", "1.0")
    output = environment.install()
    assert "triton" in output and "8-bit optimizers are not available" in output and environment.frozen() == before
    assert environment.install() == ""  # not tried again at each start

    tried.unlink()
    make_wheel(environment.wheels, "bitsandbytes", "0.45.5", requires=("torch", "scipy"))
    assert environment.install().splitlines()[-1] == "Dreambooth: done."
    assert environment.frozen() == before | {"bitsandbytes==0.45.5", "scipy==1.0"}
    environment.pip("uninstall", "-q", "-y", "bitsandbytes", "scipy")
    assert environment.install() == ""  # removed on purpose


@pytest.mark.parametrize(
    ("torch", "requirement"),
    [
        ("2.1.2+cu121", "bitsandbytes==0.45.5"), ("2.3.1+cu121", "bitsandbytes==0.49.2"),
        ("2.13.0", "bitsandbytes==0.50.2"), ("2.8.0+rocm6.4", "bitsandbytes==0.50.2"), ("2.1.2+rocm5.6", ""),
        ("2.13.0+cpu", ""), ("1.13.1+cu117", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_version_of_bitsandbytes_goes_with_torch(torch, requirement, monkeypatch):
    spec = importlib.util.spec_from_file_location("install_py", ROOT / "install.py")
    assert spec and spec.loader
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    monkeypatch.setattr(install, "sys", types.SimpleNamespace(platform="linux", version_info=(3, 11)))
    assert install.bitsandbytes_for(torch) == requirement
