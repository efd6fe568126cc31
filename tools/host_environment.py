"""Create the Python environment of a WebUI, and run the whole test suite in it.

    python tools/host_environment.py a1111                  Python 3.10 and what A1111 1.10.1 pins
    python tools/host_environment.py neo                    Python 3.13 and what Forge Neo pins
    python tools/host_environment.py neo -m "not slow" -x   further arguments go to pytest
    python tools/host_environment.py a1111 --env DIR --no-tests

The environment is kept in build/hosts/NAME; later calls only check its versions. What the extension needs is installed
by install.py, as in the WebUI. torch comes from the default index, on Linux as a CUDA build of several GB that runs on
the CPU too; pip's own variables (PIP_INDEX_URL and so on) select another.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Name -> Python version of the WebUI, and those of its packages that we or Gradio use, by installation step.
HOSTS = {
    # AUTOMATIC1111/stable-diffusion-webui 1.10.1: modules/launch_utils.py (torch), requirements_versions.txt. pydantic
    # and huggingface_hub are not pinned there: what pip finds for the others.
    "a1111": (
        "3.10",
        "torch==2.1.2 torchvision==0.16.2 numpy==1.26.2",
        """
        transformers==4.30.2 accelerate==0.21.0 safetensors==0.4.2 Pillow==9.5.0 gradio==3.41.2 fastapi==0.94.0
        httpx==0.24.1 httpcore==0.15 protobuf==3.20.0 psutil==5.9.5 pydantic==1.10.27 huggingface_hub==0.36.2
        """,
    ),
    # Haoming02/sd-webui-forge-classic, branch neo: modules/launch_utils.py (torch, Gradio), then requirements.txt,
    # which goes beyond what Gradio itself allows.
    "neo": (
        "3.13",
        "torch==2.11.0 torchvision==0.26.0 numpy==2.3.5",
        "gradio==4.40.0",
        """
        transformers==4.57.6 diffusers==0.37.1 accelerate==1.14.0 safetensors==0.8.0 Pillow==12.3.0 fastapi==0.127.1
        pydantic==2.10.6 huggingface-hub==0.36.2 httpx==0.28.1 protobuf==4.25.9 psutil==7.2.2 PyYAML==6.0.3 tqdm==4.70.0
        audioop-lts==0.2.2
        """,
    ),
}
IN_PARALLEL = ("-n", "2", "--dist", "worksteal")  # as in launch.py
# Not installed from requirements-test.txt: no WebUI has peft, and the pinned version is too new for A1111; the protobuf
# of A1111 is too old for onnx; ruff isn't needed.
EXCLUDED = ("peft", "onnx", "ruff")
VERSIONS = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("--env", type=Path, metavar="DIR", help="folder of the environment (default: build/hosts/HOST)")
    parser.add_argument("--no-tests", action="store_true", help="only create the environment")
    args, for_pytest = parser.parse_known_args(arguments)

    version, *steps = HOSTS[args.host]
    steps = [*(step.split() for step in steps), test_tools()]
    wanted = [requirement for step in steps for requirement in step]
    folder = args.env or ROOT / "build" / "hosts" / args.host
    python = folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run([*find_python(version), "-m", "venv", "--clear", str(folder)])
    if missing(python, wanted):
        install(python, steps)
    run([str(python), str(ROOT / "install.py")])
    if wrong := missing(python, wanted):
        raise SystemExit(f"{folder} differs from {args.host}. Missing: {', '.join(wrong)}.")
    return 0 if args.no_tests else subprocess.call([str(python), "-m", "pytest", *IN_PARALLEL, *for_pytest], cwd=ROOT)


def find_python(version: str) -> list[str]:
    """Command of a Python of this version: on the PATH, through the Windows launcher, or of pyenv."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    installed = sorted(glob.glob(f"{glob.escape(pyenv)}/versions/{version}.*/bin/python"))
    for command in ([sys.executable], [f"python{version}"], ["py", f"-{version}"], *([path] for path in installed)):
        try:
            output = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        except OSError:
            continue
        if output.startswith(f"Python {version}."):
            return command
    raise SystemExit(f"Python {version} was not found. Install it, for example with pyenv or uv.")


def install(python: Path, steps: list[list[str]]) -> None:
    """Install step by step, each constrained by the versions of the steps before."""
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.touch()
        for step in steps:
            run([str(python), "-m", "pip", "install", "-c", str(constraints), *step])
            constraints.write_text(constraints.read_text() + "\n".join(step) + "\n")


def test_tools() -> list[str]:
    lines = (ROOT / "requirements-test.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line and not line.startswith(EXCLUDED)]


def missing(python: Path, wanted: list[str]) -> list[str]:
    """Requirements ("name==version") that the environment doesn't have in exactly this version."""
    output = subprocess.run([str(python), "-c", VERSIONS], capture_output=True, text=True, check=True).stdout
    installed = {normalized(f"{name}=={version}") for name, version in json.loads(output)}
    return [requirement for requirement in wanted if normalized(requirement) not in installed]


def normalized(requirement: str) -> tuple[str, tuple[int, ...]]:
    """Comparable form: normalized name, version without local part (+cpu) and without trailing zeros."""
    name, _, version = requirement.partition("==")
    numbers = re.sub(r"(\.0)+$", "", version.partition("+")[0])
    return re.sub(r"[-_.]+", "-", name).lower(), tuple(map(int, re.findall(r"\d+", numbers)))


def run(command: list[str]) -> None:
    if subprocess.call(command):
        raise SystemExit(f"Failed: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
