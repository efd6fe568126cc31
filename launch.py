"""DreamBooth alone: makes its own environment on first use, then passes on.

    python launch.py                      the page, at http://127.0.0.1:7861
    python launch.py ui [--port N] [--models-dir DIR]
    python launch.py demo                 the whole job on the embedded model
    python launch.py test [PYTEST ...]    the test suite
    python launch.py lint                 ruff and pyright
    python launch.py WORD ...             the command line: create, train, sample, generate-ckpt, check

The environment lies in .venv beside this file; delete that folder to start afresh. It is made with the Python
that runs this file (3.10 to 3.13). TORCH_COMMAND chooses another PyTorch, as in the WebUI, and is remembered:

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

# Up to here, and in its grammar, this file is readable to Python 3.6, so that an old Python can say this:
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("Python 3.10, 3.11, 3.12 or 3.13 is needed; this is {}.{}.".format(*sys.version_info[:2]))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MARKER = VENV / "dreambooth-installed.json"

TORCH = "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/"
CUDA_WHEELS = "cu130"


class Trouble(Exception):
    """Ends the launcher with one line that says what to do."""


# Most tests keep one core busy: two of them side by side. `-n 0` among the words runs them one by one.
IN_PARALLEL = ("-n", "2", "--dist", "worksteal")
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("pyright", "--pythonpath", str(PYTHON)),
)


def main(words: list[str]) -> int:
    """Make sure that the environment is there, then become the program asked for."""
    word = words[0] if words else "ui"
    if word in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    try:
        install(tests=word in ("test", "lint"))
        if word == "lint":
            return lint(words[1:])
    except Trouble as trouble:
        say(str(trouble))
        return 1
    except KeyboardInterrupt:
        say("Stopped. The next start goes on from here.")
        return 130
    return become(*command(words))


def lint(words: list[str]) -> int:
    """Run every check, also after one that failed, so that one run shows all there is to fix."""
    if words:
        say(f"lint takes no arguments, and got: {' '.join(words)}")
        return 2
    failed = [check for check in CHECKS if run([str(PYTHON), "-m", *check], cwd=ROOT)]
    for check in failed:
        say(f"Failed: {' '.join(check)}")
    return 1 if failed else 0


def command(words: list[str]) -> tuple[list[str], Path]:
    """What to run in the environment for these words, and in which folder."""
    if not words or words[0].startswith("-"):
        words = ["ui", *words]
    if words[0] == "ui":
        return ["-m", "dreambooth.ui", *words[1:]], Path.cwd()
    if words[0] == "test":
        return ["-m", "pytest", *IN_PARALLEL, *words[1:]], ROOT
    return ["-m", "dreambooth", *words], Path.cwd()


def install(tests: bool) -> None:
    """Bring .venv up to date. Costs nothing but a look at the marker file when it is."""
    done = read_marker()
    torch_command = os.environ.get("TORCH_COMMAND") or done.get("torch_command", "")
    parts = ["standalone", "test"] if tests else ["standalone"]
    wanted = {part: hashlib.sha256(requirements(part).read_bytes()).hexdigest() for part in parts}
    wanted.update(torch=TORCH, torch_command=torch_command, python=os.path.realpath(PYTHON))
    if wanted.items() <= done.items():
        return

    started = time.monotonic()
    if done.get("python") != os.path.realpath(PYTHON):  # new, half-made, or its Python was replaced
        if run([str(PYTHON), "-c", "import pip._internal"], stderr=subprocess.DEVNULL):
            make_venv()
        done = {"python": os.path.realpath(PYTHON)}
        write_marker(done)  # after every step, so that a later start goes on where this one ended
    if any(done.get(key) != wanted[key] for key in ("torch", "torch_command")):
        install_torch(torch_command)
        done.update(torch=TORCH, torch_command=torch_command)
        write_marker(done)
    for part in parts:
        if done.get(part) == wanted[part]:
            continue
        say(f"Installing {requirements(part).name}.")
        if not pip("install", "-r", str(requirements(part))):
            raise Trouble("Installing failed: pip's lines above say why. Start again to go on from here.")
        done[part] = wanted[part]
        write_marker(done)
    say(f"The environment is ready ({time.monotonic() - started:.0f} s).")


def requirements(part: str) -> Path:
    return ROOT / f"requirements-{part}.txt"


def read_marker() -> dict[str, str]:
    try:
        done = json.loads(MARKER.read_text(encoding="utf-8"))
        return done if PYTHON.exists() else {}
    except (OSError, ValueError):
        return {}


def write_marker(done: dict[str, str]) -> None:
    beside = MARKER.with_suffix(".new")
    beside.write_text(json.dumps(done, indent=1), encoding="utf-8")
    os.replace(beside, MARKER)


def make_venv() -> None:
    """A fresh .venv, in place of whatever is left of an older one."""
    version = platform.python_version()
    say(f"Making {VENV} with Python {version}.")
    if run([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise Trouble(
            f"{VENV} could not be made: see the lines above. On Debian and Ubuntu, "
            f"`sudo apt install python{version.rpartition('.')[0]}-venv` is what is missing."
        )


def install_torch(torch_command: str) -> None:
    """PyTorch as TORCH_COMMAND says, else the build that suits this machine."""
    if torch_command:
        say(f"Installing PyTorch: {torch_command}")
        # A shell, because the variable holds a line of shell, quotes and all, in the WebUI too.
        if run(f'"{PYTHON}" -m {torch_command}', shell=True):
            raise Trouble("TORCH_COMMAND failed: pip's lines above say why.")
        return
    build = torch_build()
    if build:
        index = TORCH_INDEX + build
        if not reachable(f"{index}/torch/"):
            say(f"{index} cannot be reached; taking PyTorch from the usual package index.")
        else:
            say(f"Installing PyTorch ({build} build).")
            if pip("install", TORCH, "--index-url", index):
                return
            say(f"There is no fitting PyTorch at {index}; trying the usual package index.")
    say(f"Installing {TORCH}.")
    if not pip("install", TORCH):
        raise Trouble(
            f"{TORCH} could not be installed: pip's lines above say why. If there is no such build for this "
            'machine, choose one: TORCH_COMMAND="pip install torch==VERSION --index-url ..." python launch.py'
        )


def torch_build() -> str:
    """The folder of PyTorch's own index to ask, or "" where the usual index has the right build.

    The usual index holds CUDA builds for Linux (gigabytes that a machine without such a GPU has no use for),
    CPU builds for Windows, and the one build there is for macOS.
    """
    nvidia = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if sys.platform == "linux":
        return "" if nvidia else "cpu"
    return CUDA_WHEELS if os.name == "nt" and nvidia else ""


def reachable(url: str) -> bool:
    """A quick look first: pip itself would spend minutes on an index that does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=8):
            return True
    except (OSError, ValueError):
        return False


def pip(*arguments: str) -> bool:
    """Run pip in the environment. Standard output stays free for what the program itself has to say."""
    return run([str(PYTHON), "-m", "pip", *arguments]) == 0


def run(arguments: list[str] | str, **options) -> int:
    """The exit code of a command; its lines go where ours go. 127 when there is no such program."""
    try:
        return subprocess.run(arguments, stdout=sys.stderr, **options).returncode
    except OSError:
        return 127


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def become(arguments: list[str], folder: Path) -> int:
    """Run the environment's Python in place of this process and hand on its exit code.

    The package is found through PYTHONPATH, not by changing folder: relative paths stay what they are.
    """
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    # OpenMP's threads spin where they wait, which slows training on a busy CPU many times. Passive: they sleep.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path}
    os.chdir(folder)
    if os.name != "nt":  # the very same process: signals and exit code need no passing on
        os.execve(PYTHON, [str(PYTHON), *arguments], environment)
    # Windows has no such thing. There Ctrl-C reaches both processes by itself; this one has to sit it out.
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.run([str(PYTHON), *arguments], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
