"""Arguments that several commands share."""

from __future__ import annotations

import argparse

from dreambooth.settings import Setting


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument("--concepts", metavar="FILE.json", help="concepts file")


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
