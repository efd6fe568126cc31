"""Import of ai-toolkit's saves and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dreambooth.interop.ai_toolkit.job_file import Job, describe_model
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.settings import concept_values
from dreambooth.text import count

_SAMPLERS = {"ddim": "DDIM", "pndm": "PNDM", "euler": "EulerDiscrete", "euler_a": "EulerAncestralDiscrete",
             "dpmsolver++": "DPMSolverMultistep", "dpmsolver": "DPMSolverMultistep", 
             "unipc": "UniPCMultistep"}  # fmt: skip


def import_saving(report: ImportReport, job: Job) -> None:
    values, accumulation = job.values, _batches_per_step(report, job.values)
    every = int(values.number("save.save_every"))
    report.set("save_embedding_every", 0)
    report.set("save_every_steps", math.ceil(every / accumulation), values.source("save.save_every"))
    lora = bool(report.settings.get("use_lora"))
    if every:
        report.set("save_lora_during" if lora else "save_ckpt_during", True)
    dtype = values.text("save.dtype").lower()
    if not lora:
        report.set("half_model", dtype in ("float16", "fp16", "bf16", "bfloat16"), values.source("save.dtype"))
    if "save.max_step_saves_to_keep" in values:
        report.unsupported.append(
            "save.max_step_saves_to_keep: all LoRA files and checkpoints are kept; only snapshots are limited in "
            "number."
        )
        values.skip(["save.max_step_saves_to_keep"])
    if job.name:
        report.set("custom_model_name", job.name, "name")
    name = values.text("model.name_or_path")
    report.unsupported.append(
        f"model = {describe_model(job)}{f', {name}' if name else ''}: the model is chosen when it is created (create "
        "NAME --source ...)."
    )


def _batches_per_step(report: ImportReport, values: NestedValues) -> int:
    """Batches that ai-toolkit counts as a step are merged with gradient_accumulation_steps."""
    merged = values.number("train.gradient_accumulation_steps") > 1
    return max(1, int(report.settings.get("gradient_accumulation_steps", 1))) if merged else 1


def import_samples(report: ImportReport, job: Job) -> None:
    values = job.values
    every = 0 if values.flag("train.disable_sampling") else int(values.number("sample.sample_every"))
    report.set("save_preview_every", 0)
    steps = math.ceil(every / _batches_per_step(report, values))
    report.set("preview_every_steps", steps, values.source("sample.sample_every"))
    sampler = values.text("sample.sampler").lower()
    if sampler in _SAMPLERS:
        report.set("scheduler", _SAMPLERS[sampler], values.source("sample.sampler"))
    elif "sample.sampler" in values:
        report.unsupported.append(f"sample.sampler = {sampler}: the current sampler is used for previews.")
    rows = values.get("sample.samples") or values.get("sample.prompts") or []
    rows = [
        row if isinstance(row, Mapping) else {"prompt": row} for row in (rows if isinstance(rows, list) else [rows])
    ]
    rows = [row for row in rows if str(row.get("prompt") or "").strip()]
    values.skip(f"sample.{key}" for key in ("width", "height", "neg", "seed", "guidance_scale", "sample_steps"))
    if not rows or not report.concepts:
        return
    row = rows[0]
    word = job.filled(values.text("trigger_word"))
    prompt = job.filled(str(row["prompt"])).replace("[trigger]", word)
    prompt, _, _ = prompt.partition(" --m ")
    negative = row.get("neg", values.get("sample.neg"))
    given = {
        "save_sample_prompt": prompt.strip(),
        "save_sample_negative_prompt": negative if isinstance(negative, str) else "",
        "sample_seed": row.get("seed", values.get("sample.seed")),
        "save_guidance_scale": row.get("guidance_scale", values.get("sample.guidance_scale")),
        "save_infer_steps": row.get("sample_steps", values.get("sample.sample_steps")),
    }
    given = {key: value for key, value in given.items() if value is not None}
    report.concepts[0] = report.make_concept({**concept_values(report.concepts[0]), **given}, "sample")
    report.imported.append(f"sample.prompts -> concept 1, sample image prompt {given['save_sample_prompt']!r}")
    if len(rows) > 1:
        report.unsupported.append(
            f"sample.prompts: {count(len(rows) - 1, 'more prompt')} ignored; a concept has only one."
        )
    size = [int(row.get(key, values.number(f"sample.{key}"))) for key in ("width", "height")]
    resolution = report.settings.get("resolution", 0)
    if size != [resolution, resolution]:
        report.unsupported.append(
            f"sample.width, sample.height = {size[0]}x{size[1]}: previews have the resolution of the run."
        )
