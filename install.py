"""Run by the WebUI before it starts: adds what Dreambooth misses, changes nothing that is there.

What the WebUI pins stays as it is: pip gets a constraints file made from all that is installed. When all is
there, this file only looks at version numbers (no pip, no network). It never stops a WebUI: it exits with 0.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# diffusers, and the least Python, torch and transformers that it was seen to work with; newest first.
DIFFUSERS = (
    ("0.42.1", "3.11", "2.6", "5.0"),
    ("0.41.0", "3.10", "2.6", "5.0"),
    ("0.37.1", "3.10", "2.6", "4.57"),
    ("0.31.0", "3.10", "2.3", "4.46"),
    ("0.30.3", "3.10", "2.1", "4.30"),
)
USED = (
    "import accelerate; from diffusers import AutoencoderKL, UNet2DConditionModel; "
    "from transformers import CLIPTextModel"
)


def main() -> None:
    if "--skip-install" in [*sys.argv, *os.environ.get("COMMANDLINE_ARGS", "").split()]:
        return
    needed = requirements()
    missing = [name for name in needed if installed(name) is None]
    if missing:
        add([choose(name, needed[name]) for name in missing])
    for line in problems():
        say(line)


def problems() -> list[str]:
    """What stands in the way in this Python, one line each; [] when all is well."""
    found = []
    for name, least in requirements().items():
        version = installed(name)
        if version is None:
            found.append(f"{name} is missing: install {name}>={least} in the WebUI's environment.")
        elif numbers(version) < numbers(least):
            found.append(f"{name} {version} is older than {least}, the oldest that works: update the WebUI.")
    return found


def requirements() -> dict[str, str]:
    """Name -> oldest version that works, from requirements.txt."""
    lines = (Path(__file__).resolve().parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(">=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): least.strip() or "0" for name, _, least in pairs}


def installed(name: str) -> str | None:
    """Its version. From the line that says it: to have a page of metadata parsed takes several times as long."""
    try:
        there = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    said = re.search(r"^Version: *(\S+)", there.read_text("METADATA") or "", re.MULTILINE)
    return said[1] if said else there.version


def numbers(version: str) -> tuple[int, ...]:
    """4.30.2 -> (4, 30, 2); a local part (+cu121) does not count."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def choose(name: str, least: str) -> str:
    """What to ask pip for. For diffusers, the newest that goes with this torch and transformers."""
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
    raise RuntimeError(f"no diffusers goes with torch {torch} and transformers {transformers}.")


def add(wanted: list[str]) -> None:
    """Install, within what is there, and see in a fresh process that it imports."""
    say(f"adding {', '.join(wanted)}; nothing that is installed will be changed.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(frozen()), encoding="utf-8")
        index = os.environ.get("INDEX_URL")  # the WebUI's own variable for its package index
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        quick = ["--retries", "1", "--timeout", "20"]  # a WebUI that is offline should not wait long for us
        where = ["--index-url", index] if index else []
        done = run([*pip, *quick, *where, "-c", str(constraints), *wanted])
    if done.returncode:
        raise RuntimeError(f"pip could not add {', '.join(wanted)}: {last_line(done.stderr)}")
    seen = run([sys.executable, "-c", USED])
    if seen.returncode:
        raise RuntimeError(f"added {', '.join(wanted)}, but it does not import: {last_line(seen.stderr)}")
    say("done.")


def frozen() -> list[str]:
    """Everything that is installed, as constraints."""
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    # By name once more: a folder like ~umpy-1.0.dist-info, which pip leaves behind at times, has numpy's old number.
    found = {name: installed(name) for name in names if name}
    plain = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?")  # others upset pip
    return sorted(f"{name}=={version}" for name, version in found.items() if plain.fullmatch(version or ""))


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def say(line: str) -> None:
    print(f"Dreambooth: {line}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as problem:
        say(f"{problem}")
