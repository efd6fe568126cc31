"""Import of masked loss: masks in a folder of their own, and alpha channels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.data_dirs import describe_missing
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.paths import clean_path


def import_masked_loss(report: ImportReport, values: Mapping[str, Any]) -> None:
    """masked_loss, which needs masks in sd-scripts; alpha_mask works without it, and is imported with the dataset."""
    masked = bool(values.get("masked_loss"))
    folders = [concept.mask_data_dir for concept in report.concepts if concept.mask_data_dir]
    for folder in dict.fromkeys(folders):
        if problem := describe_missing(clean_path(folder)):
            report.unsupported.append(f"conditioning_data_dir: {problem} The check refuses the run until then.")
    if masked and report.concepts and not folders and not report.settings.get("masked_loss"):
        report.set("masked_loss", False)
        report.unsupported.append(
            "masked_loss: no subset has masks (conditioning_data_dir) or alpha_mask, so sd-scripts train without "
            "masks, and Masked loss is off."
        )
    elif masked:
        report.set("masked_loss", True, "masked_loss")
        report.set("unmasked_weight", 0.0)
    else:
        if folders and not report.settings.get("masked_loss"):
            report.unsupported.append("conditioning_data_dir: the masks are not used, as masked_loss is off.")
        if "masked_loss" in values and "masked_loss" not in report.settings:
            report.set("masked_loss", False)
    for concept in report.concepts:
        if concept.mask_data_dir:
            report.imported.append(f"conditioning_data_dir {os.path.basename(concept.mask_data_dir)} -> mask_data_dir")
