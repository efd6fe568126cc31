"""Run by the WebUI before it starts: installs missing requirements without changing installed packages.

Pip gets a constraints file with the versions of all installed packages. If nothing is missing, only version numbers
are checked (no pip, no network). It always exits with 0, so that the WebUI starts in any case.

bitsandbytes, for 8-bit optimizers, is optional: it is tried once for each torch, and removed again if it can't be
imported, because diffusers imports it wherever it is installed.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# diffusers, and the oldest Python, torch and transformers it was tested with; newest first.
DIFFUSERS = (
    ("0.42.1", "3.11", "2.6", "5.0"),
    ("0.41.0", "3.10", "2.6", "5.0"),
    ("0.37.1", "3.10", "2.6", "4.57"),
    ("0.31.0", "3.10", "2.3", "4.46"),
    ("0.30.3", "3.10", "2.1", "4.30"),
)
# bitsandbytes, and the oldest Python and torch that it supports; newest first. AMD's GPUs are supported from 0.49 on.
BITSANDBYTES = (("0.50.2", "3.10", "2.4"), ("0.49.2", "3.10", "2.3"), ("0.45.5", "3.8", "2.0"))
ROCM_LEAST = "0.49"
TRIED = Path(__file__).resolve().parent / "build" / "bitsandbytes.txt"  # the last attempt to install it
IMPORT_TEST = (
    "import accelerate; from diffusers import AutoencoderKL, UNet2DConditionModel; "
    "from transformers import CLIPTextModel"
)


def main() -> None:
    if "--skip-install" in [*sys.argv, *os.environ.get("COMMANDLINE_ARGS", "").split()]:
        return
    needed = requirements()
    missing = [name for name in needed if installed(name) is None]
    if missing:
        install([choose(name, needed[name]) for name in missing])
    for line in problems():
        log(line)
    if all(installed(name) for name in needed):
        install_bitsandbytes()


def install_bitsandbytes() -> None:
    """Install bitsandbytes for a GPU that it supports, once: who removes it doesn't get it again."""
    wanted = bitsandbytes_for(installed("torch") or "")
    attempt = f"{wanted} for torch {installed('torch')} in {sys.prefix}"
    if not wanted or installed("bitsandbytes") or (TRIED.exists() and TRIED.read_text(encoding="utf-8") == attempt):
        return
    before = set(frozen())
    try:
        install([wanted], f"import bitsandbytes; {IMPORT_TEST}")
    except RuntimeError as error:
        log(f"{error} 8-bit optimizers are not available; everything else is.")
        added = sorted(line.partition("==")[0] for line in set(frozen()) - before)
        if added:
            run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *added])
    TRIED.parent.mkdir(exist_ok=True)
    TRIED.write_text(attempt, encoding="utf-8")


def bitsandbytes_for(torch: str) -> str:
    """The requirement for this version of torch; "" where no release supports it, or torch uses no GPU that it does."""
    if not torch or sys.platform == "darwin" or re.search(r"\+(cpu|xpu)", torch):
        return ""
    for version, python, least_torch in BITSANDBYTES:
        is_supported = sys.version_info[:2] >= numbers(python) and numbers(torch) >= numbers(least_torch)
        if is_supported and ("+rocm" not in torch or numbers(version) >= numbers(ROCM_LEAST)):
            return f"bitsandbytes=={version}"
    return ""


def problems() -> list[str]:
    """Missing and outdated requirements in this environment, one line each."""
    found = []
    for name, least in requirements().items():
        version = installed(name)
        if version is None:
            found.append(f"{name} is missing. Install {name}>={least} in the WebUI's environment.")
        elif numbers(version) < numbers(least):
            found.append(f"{name} {version} is older than {least}, the oldest supported version. Update the WebUI.")
    return found


def requirements() -> dict[str, str]:
    """Name -> oldest supported version, from requirements.txt."""
    lines = (Path(__file__).resolve().parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(">=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): least.strip() or "0" for name, _, least in pairs}


def installed(name: str) -> str | None:
    """The installed version. Read from its line in METADATA: parsing the whole file takes several times as long."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    match = re.search(r"^Version: *(\S+)", distribution.read_text("METADATA") or "", re.MULTILINE)
    return match[1] if match else distribution.version


def numbers(version: str) -> tuple[int, ...]:
    """4.30.2 -> (4, 30, 2), without a local part (+cu121)."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def choose(name: str, least: str) -> str:
    """The requirement for pip. For diffusers, the newest version that supports this torch and transformers."""
    torch, transformers = installed("torch"), installed("transformers")
    if name != "diffusers" or not torch or not transformers:
        return f"{name}>={least}"
    for version, python, least_torch, least_transformers in DIFFUSERS:
        if (
            sys.version_info[:2] >= numbers(python)
            and numbers(torch) >= numbers(least_torch)
            and numbers(transformers) >= numbers(least_transformers)
        ):
            return f"diffusers=={version}"
    raise RuntimeError(
        f"no version of diffusers supports torch {torch} and transformers {transformers}. Update the WebUI."
    )


def install(wanted: list[str], import_test: str = IMPORT_TEST) -> None:
    """Install without changing other packages, and test the imports in a new process."""
    log(f"installing {', '.join(wanted)}; installed packages are not changed.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(frozen()), encoding="utf-8")
        index = os.environ.get("INDEX_URL")  # the WebUI's own variable for its package index
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        quick = ["--retries", "1", "--timeout", "20"]  # an offline WebUI must not wait long
        where = ["--index-url", index] if index else []
        done = run([*pip, *quick, *where, "-c", str(constraints), *wanted])
    if done.returncode:
        raise RuntimeError(f"pip could not install {', '.join(wanted)}: {last_line(done.stderr)}")
    imported = run([sys.executable, "-c", import_test])
    if imported.returncode:
        raise RuntimeError(f"installed {', '.join(wanted)}, but the import fails: {last_line(imported.stderr)}")
    log("done.")


def frozen() -> list[str]:
    """All installed packages, as pip constraints."""
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    # Looked up by name: pip may leave folders like ~umpy-1.0.dist-info behind, with an old version of numpy.
    versions = {name: installed(name) for name in names if name}
    plain = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?")  # pip rejects others
    return sorted(f"{name}=={version}" for name, version in versions.items() if plain.fullmatch(version or ""))


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def log(line: str) -> None:
    print(f"Dreambooth: {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as problem:
        log(f"{problem}")
