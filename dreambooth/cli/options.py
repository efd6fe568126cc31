"""Arguments that several words of the command line share."""

from __future__ import annotations

import argparse

from dreambooth.settings import Setting


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument("--concepts", metavar="FILE.json", help="a list of concepts")


def add_option(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """A declared setting as an option of its own; one that is on by itself can be switched off with --no-..."""
    name, help = "--" + setting.key.replace("_", "-"), setting.help.replace("%", "%%")
    if setting.type is bool:
        action = argparse.BooleanOptionalAction if setting.default else "store_true"
        parser.add_argument(name, action=action, default=None, help=help)
        return
    help += f" (default: {setting.default})" if setting.default else ""
    parser.add_argument(name, choices=setting.choices or None, help=help, metavar=None if setting.choices else "X")
