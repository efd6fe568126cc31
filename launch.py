"""Standalone launcher: creates a virtual environment on first use, then runs the program in it.

    python launch.py                      serve the page at http://127.0.0.1:7861
    python launch.py ui [--port N] [--models-dir DIR]
    python launch.py demo                 train and evaluate an embedded model (--family sd, zimage)
    python launch.py test [PYTEST ...]    run the test suite
    python launch.py lint                 run ruff and pyright
    python launch.py COMMAND ...          command line: create, train, sample, generate-ckpt, check, ...

The environment is the folder .venv next to this file; delete it to start over. It uses the Python that runs this
file (3.10 to 3.13). TORCH_COMMAND selects another PyTorch, as in the WebUI, and is remembered:

    TORCH_COMMAND="pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

# The syntax of this file is that of Python 3.6, so that an old Python gets this far:
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("Python 3.10, 3.11, 3.12 or 3.13 is required; this is {}.{}.".format(*sys.version_info[:2]))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MARKER = VENV / "dreambooth-installed.json"

TORCH = "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/"
CUDA_WHEELS = "cu130"
# PyTorch's default builds have no kernels for GPUs older than Turing (pytorch issue 172352): GTX 10, P100, V100, ...
OLD_CUDA_WHEELS, TURING = "cu126", (7, 5)


class LaunchError(Exception):
    """Ends the launcher with a one-line message."""


# Most tests keep one core busy, so two run in parallel. The argument `-n 0` runs them one by one.
IN_PARALLEL = ("-n", "2", "--dist", "worksteal")
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", str(PYTHON)),
)


def main(arguments: list[str]) -> int:
    """Bring the environment up to date, then run the program in it."""
    command = arguments[0] if arguments else "ui"
    if command in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    try:
        install(tests=command in ("test", "lint"))
        if command == "lint":
            return lint(arguments[1:])
    except LaunchError as error:
        log(str(error))
        return 1
    except KeyboardInterrupt:
        log("Stopped. The next start continues from here.")
        return 130
    return run_program(*program(arguments))


def lint(arguments: list[str]) -> int:
    """Run every check, even after one has failed, so that one run shows all problems."""
    if arguments:
        log(f"lint takes no arguments, but got: {' '.join(arguments)}")
        return 2
    failed = [check for check in CHECKS if run([str(PYTHON), "-m", *check], cwd=ROOT)]
    for check in failed:
        log(f"Failed: {' '.join(check)}")
    return 1 if failed else 0


def program(arguments: list[str]) -> tuple[list[str], Path]:
    """Arguments for the environment's Python, and the working directory."""
    if not arguments or arguments[0].startswith("-"):
        arguments = ["ui", *arguments]
    if arguments[0] == "ui":
        return ["-m", "dreambooth.ui", *arguments[1:]], Path.cwd()
    if arguments[0] == "test":
        return ["-m", "pytest", *IN_PARALLEL, *arguments[1:]], ROOT
    return ["-m", "dreambooth", *arguments], Path.cwd()


def install(tests: bool) -> None:
    """Bring .venv up to date. If it is, only the marker file is read."""
    done = read_marker()
    torch_command = os.environ.get("TORCH_COMMAND") or done.get("torch_command", "")
    parts = ["standalone", "test"] if tests else ["standalone"]
    wanted = {part: hashlib.sha256(requirements(part).read_bytes()).hexdigest() for part in parts}
    wanted.update(torch=TORCH, torch_command=torch_command, python=os.path.realpath(PYTHON))
    if wanted.items() <= done.items():
        return

    started = time.monotonic()
    if done.get("python") != os.path.realpath(PYTHON):  # new, incomplete, or its Python was replaced
        if run([str(PYTHON), "-c", "import pip._internal"], stderr=subprocess.DEVNULL):
            make_venv()
        done = {"python": os.path.realpath(PYTHON)}
        write_marker(done)  # after every step, so that a later start continues from here
    if any(done.get(key) != wanted[key] for key in ("torch", "torch_command")):
        install_torch(torch_command)
        done.update(torch=TORCH, torch_command=torch_command)
        write_marker(done)
    for part in parts:
        if done.get(part) == wanted[part]:
            continue
        log(f"Installing {requirements(part).name}.")
        if not pip("install", "-r", str(requirements(part))):
            raise LaunchError("Installation failed; see pip's output above. Start again to continue from here.")
        done[part] = wanted[part]
        write_marker(done)
    log(f"The environment is ready ({time.monotonic() - started:.0f} s).")


def requirements(part: str) -> Path:
    return ROOT / f"requirements-{part}.txt"


def read_marker() -> dict[str, str]:
    try:
        done = json.loads(MARKER.read_text(encoding="utf-8"))
        return done if PYTHON.exists() else {}
    except (OSError, ValueError):
        return {}


def write_marker(done: dict[str, str]) -> None:
    temporary = MARKER.with_suffix(".new")
    temporary.write_text(json.dumps(done, indent=1), encoding="utf-8")
    os.replace(temporary, MARKER)


def make_venv() -> None:
    """Create .venv, replacing what is left of an older one."""
    version = platform.python_version()
    log(f"Creating {VENV} with Python {version}.")
    if run([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise LaunchError(
            f"{VENV} could not be created; see the output above. On Debian and Ubuntu, "
            f"run `sudo apt install python{version.rpartition('.')[0]}-venv`."
        )


def install_torch(torch_command: str) -> None:
    """Install PyTorch with TORCH_COMMAND if it is set, else the build for this machine."""
    if torch_command:
        log(f"Installing PyTorch: {torch_command}")
        # Through a shell: the variable holds a shell command, as in the WebUI.
        if run(f'"{PYTHON}" -m {torch_command}', shell=True):
            raise LaunchError("TORCH_COMMAND failed; see pip's output above.")
        return
    build = torch_build()
    if build:
        index = TORCH_INDEX + build
        if not reachable(f"{index}/torch/"):
            log(f"{index} can't be reached. Using the default package index for PyTorch.")
        else:
            log(f"Installing PyTorch ({build} build).")
            if pip("install", TORCH, "--index-url", index):
                return
            log(f"{index} has no matching PyTorch. Trying the default package index.")
    log(f"Installing {TORCH}.")
    if not pip("install", TORCH):
        raise LaunchError(
            f"{TORCH} could not be installed; see pip's output above. If there is no such build for this machine, "
            'choose another: TORCH_COMMAND="pip install torch==VERSION --index-url ..." python launch.py'
        )


def torch_build() -> str:
    """Subfolder of PyTorch's package index to use, or "" if the default index has the right build.

    The default index has CUDA builds for Linux (gigabytes that a machine without such a GPU has no use for), CPU builds
    for Windows, and the only build for macOS.
    """
    nvidia = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if nvidia and min(compute_capabilities(), default=TURING) < TURING:
        return OLD_CUDA_WHEELS
    if sys.platform == "linux":
        return "" if nvidia else "cpu"
    return CUDA_WHEELS if os.name == "nt" and nvidia else ""


def compute_capabilities() -> list[tuple[int, ...]]:
    """Compute capability of each NVIDIA GPU, such as (8, 6); empty if nvidia-smi doesn't tell."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
        return [tuple(int(part) for part in line.split(".")) for line in lines]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def reachable(url: str) -> bool:
    """Whether the URL responds; pip itself would spend minutes on an index that doesn't."""
    try:
        with urllib.request.urlopen(url, timeout=8):
            return True
    except (OSError, ValueError):
        return False


def pip(*arguments: str) -> bool:
    """Run pip in the environment. Its output goes to standard error, so that standard output is the program's own."""
    return run([str(PYTHON), "-m", "pip", *arguments]) == 0


def run(arguments: list[str] | str, **options) -> int:
    """Run a command with its output on standard error. Returns its exit code; 127 if there is no such program."""
    try:
        return subprocess.run(arguments, stdout=sys.stderr, **options).returncode
    except OSError:
        return 127


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_program(arguments: list[str], folder: Path) -> int:
    """Replace this process by the environment's Python.

    The package is found through PYTHONPATH instead of the working directory, so that relative paths still work.
    """
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    # By default OpenMP threads spin at barriers, which makes training on a busy CPU many times slower.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path}
    os.chdir(folder)
    if os.name != "nt":  # same process: signals and exit code are the program's own
        os.execve(PYTHON, [str(PYTHON), *arguments], environment)
    # Windows has no exec. There Ctrl-C reaches both processes; this one ignores it.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.run([str(PYTHON), *arguments], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
