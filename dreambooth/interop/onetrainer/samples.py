"""Import of OneTrainer's sample prompts, from the configuration or the file that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.settings import concept_values
from dreambooth.settings.concept import MAX_BYTES
from dreambooth.text import count

_SAMPLERS = {"DDIM": "DDIM", "EULER": "EulerDiscrete", "EULER_A": "EulerAncestralDiscrete",
             "DPMPP": "DPMSolverMultistep", "UNIPC": "UniPCMultistep"}  # fmt: skip
# Key of a sample -> field of a concept.
_FIELDS = {"prompt": "save_sample_prompt", "negative_prompt": "save_sample_negative_prompt",
           "diffusion_steps": "save_infer_steps", "cfg_scale": "save_guidance_scale"}  # fmt: skip


def is_sample_row(row: Any) -> bool:
    """Whether an object is a sample definition of OneTrainer."""
    return isinstance(row, Mapping) and "prompt" in row and not {"diffusion_steps", "cfg_scale"}.isdisjoint(row)


def is_samples(data: Any) -> bool:
    """Whether these are the values of a samples.json."""
    return isinstance(data, list) and bool(data) and all(map(is_sample_row, data))


def refuse_samples(report: ImportReport, file: DataFile) -> None:
    raise UserError(
        f"{file.path} contains OneTrainer's sample prompts, not images to train. Choose its config.json, which names "
        "both, or its concepts.json."
    )


def import_samples(report: ImportReport, config: NestedValues) -> None:
    """The first enabled sample is that of the first concept; a concept has only one."""
    rows = _rows(report, config)
    samples = [row for row in rows if is_sample_row(row) and row.get("enabled") is not False and row.get("prompt")]
    if not samples or not report.concepts:
        return
    sample = samples[0]
    given = {field: sample[key] for key, field in _FIELDS.items() if sample.get(key) is not None}
    if not sample.get("random_seed") and sample.get("seed") is not None:
        given["sample_seed"] = sample["seed"]
    first = report.concepts[0]
    report.concepts[0] = report.make_concept({**concept_values(first), **given}, "samples")
    report.imported.append(f"samples -> concept 1, sample image prompt {report.concepts[0].save_sample_prompt!r}")
    name = str(sample.get("noise_scheduler") or "").upper()
    mapped = _SAMPLERS.get(name.removesuffix("_KARRAS"))
    if mapped:
        report.set("scheduler", mapped, "samples, noise_scheduler")
    if name and (mapped is None or name.endswith("_KARRAS")):
        used = mapped or "the current sampler"
        report.unsupported.append(f"samples, noise_scheduler = {name}: not supported; {used} is used.")
    if len(samples) > 1:
        report.unsupported.append(f"samples: {count(len(samples) - 1, 'more prompt')} ignored; a concept has only one.")
    if any(row.get("sample_inpainting") for row in samples):
        report.unsupported.append("samples, sample_inpainting: previews are generated from the prompt only.")


def _rows(report: ImportReport, config: NestedValues) -> list[Any]:
    rows, name = config.get("samples"), config.text("sample_definition_file_name")
    if isinstance(rows, list) or not name or not report.concepts:
        return rows if isinstance(rows, list) else []
    try:
        path = report.resolve_path(name)
        rows = read_json(path, MAX_BYTES) if os.path.isfile(path) else []
    except UserError as error:
        report.unsupported += [f"sample_definition_file_name: {problem}" for problem in error.problems]
        rows = []
    return rows if isinstance(rows, list) else []
