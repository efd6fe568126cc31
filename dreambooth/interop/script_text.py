"""Scripts (.sh, .ps1, .bat) that run sd-scripts, such as lora-scripts' train.ps1, and commands pasted into a file.

Assignments, conditions on variables and arguments that are added to a list are followed line by line; loops and
functions are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SCRIPT_KEY = "command of a script"
_ASSIGNMENT = re.compile(
    r"\s*(?:set\s+\"?|export\s+)?\$?(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s#;&\"]*))", re.IGNORECASE
)
_CONDITION = re.compile(r"\s*(?:}\s*)?(if|elif|elseif|else)\b(.*)")
_TEST = re.compile(r"\$\{?(\w+)}?\s*(-eq|-ne|==|!=|=)?\s*[\"']?([\w.]*)")
_ADDED = re.compile(r"(?:\.Add\(|\+=\()\s*[\"']([^\"']*)[\"'](?:\s*\+\s*\$(\w+))?")
_VARIABLE = re.compile(r"\$\{?(\w+)(?:\[@])?}?|%(\w+)%")
_SCRIPT = re.compile(r"\b(\w*(?:train|tune)\w*\.py)\b")
_LIST_STARTS = ("(", "@(", "[System")  # of lists, whose words are added later
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"']|["'](?=[^"']*$))+""")
_CONTINUED = re.compile(r"[ \t]*[\\`^][ \t]*\n")


def read_script(text: str) -> dict[str, Any] | None:
    """{SCRIPT_KEY: {"script": name of its Python file, "arguments": its words}}; None for any other text."""
    if "--pretrained_model_name_or_path" not in text or not _SCRIPT.search(text):
        return None
    variables: dict[str, str] = {}
    added: list[str] = []
    command, is_active, was_active = "", True, False
    for line in _CONTINUED.sub(" ", text).split("\n"):
        if line.lstrip().startswith(("#", "::", "rem ", "REM ")):
            continue
        condition = _CONDITION.match(line)
        if condition:
            is_first = condition[1] == "if"
            is_active = (is_first or not was_active) and (condition[1] == "else" or _holds(condition[2], variables))
            was_active = is_active or (was_active and not is_first)
        assignment = _ASSIGNMENT.match(line)
        if is_active and assignment:
            value = next((group for group in assignment.groups()[1:] if group is not None), "")
            variables[assignment[1]] = "" if value.startswith(_LIST_STARTS) else _filled(value, variables)
        for text_added, name in _ADDED.findall(line) if is_active else ():
            added += [_filled(word, variables) for word in f"{text_added}{'$' * bool(name)}{name}".split()]
        if "--pretrained_model_name_or_path" in line:
            command = line
        if (condition is None and re.match(r"\s*(}|fi\b)", line)) or re.search(r";\s*fi\b", line):
            is_active = True
    words = [_filled(word, variables) for word in split_words(command)]
    place = next((index for index, word in enumerate(words) if _SCRIPT.search(word)), 0)
    script = _SCRIPT.search(words[place]) if words else None
    arguments = [*filter(None, words[place + 1 :]), *added]
    return {SCRIPT_KEY: {"script": script[1] if script else "", "arguments": arguments}}


def split_words(text: str) -> list[str]:
    """The words of a command line, without quotes. Backslashes stay, as in paths of Windows."""
    return [word.replace('"', "").replace("'", "") for word in _WORD.findall(text)]


def _holds(condition: str, variables: Mapping[str, str]) -> bool:
    """Whether a test of a variable holds: its value, or that it is neither empty nor 0."""
    test = _TEST.search(condition)
    if test is None:
        return False
    value, operator, expected = variables.get(test[1], ""), test[2], test[3]
    if operator in ("-ne", "!="):
        return value != expected
    return value == expected if operator else value not in ("", "0", "$false")


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of its variables; unknown ones become empty."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)
