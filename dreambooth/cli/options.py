"""Arguments that several words of the command line share."""

from __future__ import annotations

import argparse

from dreambooth.settings import Setting


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument("--concepts", metavar="FILE.json", help="a list of concepts")


def add_option(parser: argparse.ArgumentParser, setting: Setting) -> None:
    """A declared setting as an option of its own."""
    name, help = "--" + setting.key.replace("_", "-"), setting.help.replace("%", "%%")
    help += f" (default: {setting.default})" if setting.default else ""
    if setting.type is bool:
        parser.add_argument(name, action="store_true", default=None, help=help)
    else:
        parser.add_argument(name, choices=setting.choices or None, help=help, metavar=None if setting.choices else "X")
