"""Names of models and of saved files: valid as a file name on every system."""

from __future__ import annotations

import re

from dreambooth.errors import UserError
from dreambooth.text import escape_unprintable

MAX_NAME_BYTES = 100  # a step number and a file extension follow, and file systems allow 255 in total
_PORTS = "123456789¹²³"  # Windows takes the superscripts for digits
RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$",
                  *(f"{port}{n}" for port in ("COM", "LPT") for n in _PORTS)}  # fmt: skip
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".bin")


def name_problem(name: str, what: str = "a file name") -> str:
    """Why ``name`` is not valid as ``what``, and the fix; "" if it is."""
    reason = _reason(name)
    shown = name if len(name) <= 60 else name[:60] + "..."
    return f"'{escape_unprintable(shown)}' is not valid as {what}: {reason}" if reason else ""


def output_name_problem(name: str) -> str:
    """The same for the name of saved files, to which a number and the file extension are added."""
    extension = _extension(name)
    if extension and not _reason(name):
        return f"'{name}' ends with {extension}, which is added when a file is saved: leave it out"
    return name_problem(name)


def require_name(name: str, what: str) -> str:
    """``name``, if it is a valid file name on every system; otherwise a UserError that calls it ``what``."""
    if problem := name_problem(name, what):
        raise UserError(f"{problem}.")
    return name


def clean_name(name: str) -> str:
    """A valid name of saved files that is close to ``name``; "" if nothing is left of it."""
    last = re.split(r"[/\\]", name.strip().rstrip("/\\. "))[-1]
    last = _FORBIDDEN.sub("_", "".join(letter for letter in last if letter.isprintable()))
    last = last.removesuffix(_extension(last)).encode("utf-8", "ignore")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    last = last.strip(" .")
    return last if last.strip("_ .") and not output_name_problem(last) else ""


def _extension(name: str) -> str:
    return next((name[-len(end) :] for end in _EXTENSIONS if name.lower().endswith(end)), "")


def _reason(name: str) -> str:
    if not name.strip(" ."):
        return "it has no letters or digits. Enter a name"
    if "/" in name or "\\" in name:
        return "it is a path. Use a name without folders"
    if forbidden := _FORBIDDEN.search(name):
        return f"it contains {forbidden[0]}, which file names can't have everywhere. Leave it out"
    if not name.isprintable():
        return "it contains a line break or another invisible character. Remove it"
    if name != name.strip(" .") or name != name.strip():
        return "it starts or ends with a dot or space, which Windows does not allow. Leave it out"
    n_bytes = len(name.encode("utf-8", "surrogatepass"))
    if n_bytes > MAX_NAME_BYTES:
        return f"it is too long ({n_bytes} bytes in UTF-8). Use at most {MAX_NAME_BYTES}"
    if name.partition(".")[0].rstrip().upper() in RESERVED_NAMES:
        return "Windows reserves it for a device. Choose another name"
    return ""
