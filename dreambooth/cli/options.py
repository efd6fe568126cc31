"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from dreambooth.settings import Setting


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
        pairs = [item.partition("=") for item in group]
        if all(key.strip() and equals for key, equals, _ in pairs):
            values |= {key.strip(): value.strip() for key, _, value in pairs}
            continue
        broken = next(item for item, (key, equals, _) in zip(group, pairs, strict=True) if not (key.strip() and equals))
        problems.append(
            f"--set {' '.join(group)}: {broken} is not of the form key=value. Write no spaces around =, and quotes "
            'around a value with spaces: "sanity_prompt=a red car".'
        )
    return values, problems


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
