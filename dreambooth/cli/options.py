"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence

from dreambooth.settings import SETTINGS, Setting
from dreambooth.settings.other_names import ADVICE, unknown_key

_PAIR = re.compile(r"\s*[^\s=][^=]*=")


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument(
        "--concepts",
        metavar="PATH",
        help="concepts to use instead of the model's: a folder of images, a concepts file, a dataset.toml, "
        "or a file of another trainer",
    )


def assignments(groups: Iterable[Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """(values by key of all --set, problems); ``groups``: the arguments of each --set."""
    values, problems = {}, []
    for group in groups:
        broken = [number for number, item in enumerate(group) if not _PAIR.match(item)]
        if broken:
            meant = _meant(group, broken[0])
            text = " ".join(group)
            problems.append(
                f"--set {text}: write each setting as key=value, in quotes if it has spaces, as in {meant}."
            )
        for key, _, value in (item.partition("=") for item in group if _PAIR.match(item)):
            if value.strip() or not broken:  # the value of a broken item may be in the next one
                values[key.strip()] = value.strip()
    return values, problems


def unknown_option_hint(arguments: Sequence[str]) -> str:
    """What to write if a setting was given as an option, as in ``--learning_rate 1e-4``; "" for other arguments."""
    option, _, value = arguments[0].partition("=")
    key = option.lstrip("-").replace("-", "_")
    if not option.startswith("-"):
        return ""
    if key not in SETTINGS:
        advice = unknown_key(key, SETTINGS)
        return f". Settings are given as --set key=value{advice}." if advice else ""
    following = arguments[1] if len(arguments) > 1 and not arguments[1].startswith("--") else ""
    value = value or following or ("true" if SETTINGS[key].type is bool else "VALUE")
    return f". Settings are given as --set key=value: write --set {key}={value}"


def _meant(group: Sequence[str], broken: int) -> str:
    """The setting that the item at ``broken`` is a part of, as one argument."""
    is_key = group[broken] in SETTINGS or group[broken] in ADVICE
    start = broken if is_key else max(0, broken - 1)
    end = next((number for number in range(broken + 1, len(group)) if _PAIR.match(group[number])), len(group))
    text = re.sub(r"\s*=\s*", "=", " ".join(group[start:end]), count=1)
    if "=" not in text:
        text = text.replace(" ", "=", 1)
    return f'"{text}"' if " " in text else text


def add_option(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """A declared setting as an option; a setting that is on by default can be turned off with --no-..."""
    name, help = "--" + setting.key.replace("_", "-"), setting.help.replace("%", "%%")
    if setting.type is bool:
        action = argparse.BooleanOptionalAction if setting.default else "store_true"
        parser.add_argument(name, action=action, default=None, help=help)
        return
    help += f" (default: {setting.default})" if setting.default else ""
    if setting.choices:
        parser.add_argument(name, choices=setting.choices, help=help, type=lambda text: setting.aliases.get(text, text))
    else:
        parser.add_argument(name, help=help, metavar="X")
