"""Arguments that several words of the command line share."""

from __future__ import annotations

import argparse


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument("--concepts", metavar="FILE.json", help="a list of concepts")
