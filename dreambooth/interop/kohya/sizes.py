"""Resolution and buckets of a configuration of sd-scripts. Values that it refuses are replaced and reported."""

from __future__ import annotations

import re
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.settings import SETTINGS
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE

_STEP = 64  # the default of sd-scripts, which every model family takes


def parse_resolution(report: ImportReport, value: Any) -> tuple[int, int] | None:
    """Width and height from 512, [512, 768], "512", "512,768" or "512x768"; None, with a message, for others."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else re.split(r"\s*[,xX×*]\s*|\s+", str(value).strip(" ()[]"))
    try:
        numbers = [_whole_number(side) for side in sides]
        width, height = numbers if len(numbers) == 2 else numbers * 2
    except ValueError:
        report.unsupported.append(f"resolution = {value!r} is neither a number nor a pair; the current value is kept.")
        return None
    return width, height


def usable_step(report: ImportReport, step: int) -> int:
    """The step of bucket sides, or the default of sd-scripts, with a message, for one that no run takes."""
    declaration = SETTINGS["bucket_step"]
    if step % DEFAULT_PIXEL_MULTIPLE == 0 and (declaration.low or 0) <= step <= (declaration.high or step):
        return step
    report.unsupported.append(
        f"bucket_reso_steps = {step} is not a multiple of {DEFAULT_PIXEL_MULTIPLE} from {declaration.low} to "
        f"{declaration.high}; {_STEP} is used, as sd-scripts refuse it too."
    )
    return _STEP


def make_trainable(report: ImportReport) -> None:
    """Replace sizes that no run takes: sd-scripts stop with them, or cut the image off at the last latent pixel."""
    width = report.settings.get("resolution")
    if not width:
        return
    if report.settings.get("bucket_rule") == "one size":
        for key in ("resolution", "resolution_height"):
            _round_down(report, key)
        return
    if report.settings.get("bucket_rule") != "kohya":
        return
    height = report.settings.get("resolution_height") or width
    if report.settings.get("bucket_step", 0) > min(width, height):
        _replace(report, "bucket_step", "bucket_reso_steps", DEFAULT_PIXEL_MULTIPLE, "is larger than the resolution")
    _limit(report, "bucket_min_side", "min_bucket_reso", min(width, height), above=True)
    _limit(report, "bucket_max_side", "max_bucket_reso", max(width, height), above=False)


def _limit(report: ImportReport, key: str, parameter: str, side: int, above: bool) -> None:
    step, value = report.settings.get("bucket_step", _STEP), report.settings.get(key)
    if not value:
        return
    if above and max(step, value // step * step) > side:
        _replace(report, key, parameter, side, f"is above the resolution {side}, and sd-scripts refuse it")
    elif not above and -(-value // step) * step < side:
        _replace(report, key, parameter, side, f"is below the resolution {side}, and sd-scripts refuse it")


def _round_down(report: ImportReport, key: str) -> None:
    value = report.settings.get(key) or 0
    if value % DEFAULT_PIXEL_MULTIPLE:
        rounded = value // DEFAULT_PIXEL_MULTIPLE * DEFAULT_PIXEL_MULTIPLE
        _replace(report, key, "resolution", rounded, f"is not a multiple of {DEFAULT_PIXEL_MULTIPLE}")


def _replace(report: ImportReport, key: str, parameter: str, value: int, reason: str) -> None:
    report.unsupported.append(f"{parameter} = {report.settings[key]} {reason}; {value} is used.")
    report.set(key, value)


def _whole_number(side: Any) -> int:
    number = float(str(side).strip())
    if not number.is_integer():
        raise ValueError(side)
    return int(number)
