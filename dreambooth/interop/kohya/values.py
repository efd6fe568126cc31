"""Validation of the values of a dataset configuration, by key and type."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.keys import DATASET_KEYS, SUBSET_ONLY_KEYS
from dreambooth.interop.kohya.toml_file import Table
from dreambooth.settings.arguments import parse_value
from dreambooth.text import nearest


def validate(report: ImportReport, table: Table, known_keys: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The valid values; others are reported. ``known_keys``: key -> (allowed types, default)."""
    valid = {}
    for key, value in table.values.items():
        if key not in known_keys:
            problem = f"unknown key in sd-scripts{nearest(key, known_keys)}"
            if key in SUBSET_ONLY_KEYS or key in DATASET_KEYS:
                problem = f"belongs in {'[[datasets.subsets]]' if key in SUBSET_ONLY_KEYS else '[[datasets]]'}"
            report.unsupported.append(f"{table.location(key)}{name} {key}: {problem}; ignored.")
            continue
        types, _ = known_keys[key]
        value = _as_meant(value, types)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(_TYPE_NAMES[allowed] for allowed in types)
            report.unsupported.append(f"{table.location(key)}{name} {key} = {value!r} is not {expected}; ignored.")
        elif isinstance(value, float) and not math.isfinite(value):
            report.unsupported.append(f"{table.location(key)}{name} {key} = {value!r} is not a finite number; ignored.")
        else:
            valid[key] = value
    return valid


def _as_meant(value: Any, types: tuple[type, ...]) -> Any:
    """The value without needless quotes or decimals: "true", "2", 2.0."""
    if isinstance(value, str) and str not in types:
        with contextlib.suppress(ValueError):
            value = parse_value(value)
    if isinstance(value, float) and float not in types and int in types and value.is_integer():
        return int(value)
    return value


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: 'a string in "quotes"',
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
