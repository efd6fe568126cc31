"""The short report of ``check`` for people: what a run will do, what it needs, and what to look at first."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dreambooth.cli.truncation import truncated
from dreambooth.files import existing_part
from dreambooth.settings.components import trained_components
from dreambooth.settings.creation import FAMILIES
from dreambooth.text import count, format_bytes

if TYPE_CHECKING:
    from dreambooth.runs.preflight import PreflightResult

_MAX_CONCEPTS, _MAX_BUCKETS, _MAX_WARNINGS = 4, 4, 7  # so that the report fits on a screen
_MAX_LINE = 300  # characters


def short_report(result: PreflightResult) -> str:
    """At most about 25 lines."""
    rows = [*_what(result), *_length(result), *_resources(result)]
    width = max(len(label) for label, _ in rows)
    lines = [truncated(f"{label:{width}}  {text}", _MAX_LINE).rstrip() for label, text in rows]
    warnings = [truncated(f"  - {text}", _MAX_LINE) for text in result.warnings]
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS - 1 :] = [f"  … and {len(warnings) - _MAX_WARNINGS + 1} more (--verbose has all)"]
    found = count(len(result.warnings), "warning") if warnings else "no warnings"
    title = f"{result.model.name}: no problems, {found}{':' if warnings else ''}"
    return "\n".join([*lines, "", title, *warnings, "--verbose lists each image with its caption; --json has all."])


def _what(result: PreflightResult) -> Iterator[tuple[str, str]]:
    info, settings = result.config.info, result.config.settings
    yield "model", info.recognized or FAMILIES.get(info.model_type, info.model_type)
    titles = result.role_titles()
    parts = [f"{titles[role]} (rank {getattr(settings, keys.rank)})" if settings.use_lora else titles[role]
             for role, keys in trained_components(settings).items()]  # fmt: skip
    kind = f"{'DoRA of ' if settings.lora_dora else ''}{settings.lora_type}" if settings.use_lora else "all weights"
    yield "trained", f"{kind}: {', '.join(parts)}{_text_encoder_stop(result)}"
    left_out = len({issue.path for issue in result.plan.issues if issue.left_out})
    yield "images", f"{count(len(result.plan.examples), 'image')}{f', {left_out} files left out' if left_out else ''}"
    yield from _concepts(result)
    if n_class := len({example.path for example in result.plan.all_examples() if example.is_class}):
        yield "class images", f"{n_class:,}"
    if result.class_images:
        yield "to generate", f"{count(len(result.class_images), 'class image')}, before training starts"


def _text_encoder_stop(result: PreflightResult) -> str:
    stop = result.config.settings.stop_text_encoder
    return f"; the text encoder for the first {stop:.0%} of the steps" if 0 < stop < 1 else ""


def _concepts(result: PreflightResult) -> Iterator[tuple[str, str]]:
    concepts = result.config.concepts
    for number, concept in enumerate(concepts[:_MAX_CONCEPTS]):
        examples = [example for example in result.plan.all_examples() if example.concept == number]
        own = [example for example in examples if not example.is_class or concept.regularization]
        repeats = f" x {own[0].repeats}" if own and own[0].repeats > 1 else ""
        shown = next((example.caption for example in own if example.caption), "")
        caption = f', such as "{truncated(shown, 80)}"' if shown else ", without captions"
        kind = "regularization image" if concept.regularization else "image"
        yield f"concept {number + 1}", f"{concept.instance_data_dir}: {count(len(own), kind)}{repeats}{caption}"
    if len(concepts) > _MAX_CONCEPTS:
        yield "", f"… and {count(len(concepts) - _MAX_CONCEPTS, 'more concept')}"


def _length(result: PreflightResult) -> Iterator[tuple[str, str]]:
    settings = result.config.settings
    epochs = -(-result.steps // max(1, result.steps_per_epoch))
    batch = f"batch size {settings.train_batch_size}"
    if settings.gradient_accumulation_steps > 1:
        batch += f", {settings.gradient_accumulation_steps} accumulated"
    yield "steps", f"{result.steps:,} in {count(epochs, 'epoch')} ({result.steps_per_epoch:,} per epoch, {batch})"
    titles = result.role_titles()
    rates = [f"{rate_range(curve)} ({titles[role]})" for role, curve in result.learning_rates.items()]
    yield "learning rate", ", ".join([*rates, settings.lr_scheduler, settings.optimizer])


def rate_range(curve: Sequence[tuple[int, float]]) -> str:
    """The learning rate at the start, its largest value, and at the end, where they differ."""
    rates = [rate for _, rate in curve]
    shown = dict.fromkeys(f"{rate:.3g}" for rate in (rates[0], max(rates), rates[-1])) if rates else {}
    return " to ".join(shown)


def _resources(result: PreflightResult) -> Iterator[tuple[str, str]]:
    from dreambooth.dataset.table import bucket_counts
    from dreambooth.runs.preflight import outputs_of

    buckets = bucket_counts(result.plan)
    shown = [f"{'x'.join(map(str, bucket['size']))}: {bucket['pictures']}" for bucket in buckets[:_MAX_BUCKETS]]
    more = [f"{len(buckets) - _MAX_BUCKETS} more"] if len(buckets) > _MAX_BUCKETS else []
    yield "buckets", ", ".join([*shown, *more])
    precision = "full precision" if result.precision == "no" else result.precision
    yield "memory", f"{result.memory.summary()} on {result.device}, {precision}"
    outputs = outputs_of(result)
    free = shutil.disk_usage(existing_part(result.model.root)).free
    parts = ", ".join(map(str, outputs)) or "nothing"
    text = f"up to {format_bytes(sum(output.total for output in outputs))}: {parts}{_autosave(result)}"
    yield "disk", f"{text}; {format_bytes(free)} free"
    yield from _interrupted(result)


def _autosave(result: PreflightResult) -> str:
    minutes = result.config.settings.autosave_minutes
    size = format_bytes(result.snapshot_bytes)
    return f", an automatic snapshot of {size} every {minutes:g} min (only the last is kept)" if minutes else ""


def _interrupted(result: PreflightResult) -> Iterator[tuple[str, str]]:
    """What the run before this one can be resumed from, if it was interrupted."""
    from dreambooth.runs.interrupted import interrupted_run

    if found := interrupted_run(result.model):
        yield "interrupted", f"{found.summary(result.model.name)} Use train --resume."
