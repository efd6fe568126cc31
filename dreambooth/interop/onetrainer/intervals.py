"""Import of what depends on the length of a OneTrainer run: trained parts, saves, previews, backups, validation."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.interop.onetrainer.config_file import is_sdxl


@dataclass(frozen=True)
class Length:
    """The length of the run: epochs of OneTrainer, how many of them are one epoch here, steps (0 if unknown)."""

    epochs: int
    factor: int
    steps: int


def import_parts(report: ImportReport, config: NestedValues, length: Length) -> None:
    """Which parts are trained, and for how long."""
    report.set("train_unet", config.flag("unet.train"), config.source("unet.train"))
    if _trained_fraction(report, config, "unet", length) < 1:
        report.unsupported.append("unet.stop_training_after: the UNet is trained to the end.")
    trained = config.flag("text_encoder.train")
    part = "text_encoder"
    if is_sdxl(config):
        second = config.flag("text_encoder_2.train")
        if trained != second:
            report.unsupported.append(
                f"text_encoder.train = {trained}, text_encoder_2.train = {second}: both text encoders are trained."
            )
            part = part if trained else "text_encoder_2"
        trained = trained or second
    fraction = _trained_fraction(report, config, part, length) if trained else 0.0
    sources = [key for key in (f"{part}.train", f"{part}.stop_training_after") if key in config]
    report.set("stop_text_encoder", fraction, ", ".join(sources))
    config.skip(
        f"text_encoder_2.{key}" for key in ("train", "stop_training_after", "stop_training_after_unit", "learning_rate")
    )


def _trained_fraction(report: ImportReport, config: NestedValues, part: str, length: Length) -> float:
    """The fraction of the run during which a part is trained."""
    unit = config.word(f"{part}.stop_training_after_unit")
    after = max(0.0, config.number(f"{part}.stop_training_after"))
    if unit == "EPOCH":
        return min(1.0, after / length.epochs)
    if unit in ("NEVER", ""):
        return 1.0
    if unit == "ALWAYS":
        return 0.0
    batches = length.steps * max(1, report.settings.get("gradient_accumulation_steps", 1))
    if unit == "STEP" and batches:
        return min(1.0, after / batches)
    report.unsupported.append(
        f"{part}.stop_training_after = {after:g} {unit}: this fraction of the run is unknown, so the part is trained "
        "to the end. Set Step ratio of text encoder training."
    )
    return 1.0


def import_intervals(report: ImportReport, config: NestedValues, length: Length) -> None:
    every, unit = config.number("save_every"), config.word("save_every_unit")
    source = config.source("save_every_unit")
    _set_interval(report, "save_every", every, unit, ("save_embedding_every", "save_every_steps"), length, source)
    if every and unit in ("EPOCH", "STEP"):
        report.set("save_lora_during" if report.settings.get("use_lora") else "save_ckpt_during", True)
    if "sample_after" in config or "sample_after_unit" in config:
        every, unit = config.number("sample_after"), config.word("sample_after_unit")
        keys = "save_preview_every", "preview_every_steps"
        _set_interval(report, "sample_after", every, unit, keys, length, "sample_after")
    minutes = {"SECOND": 1 / 60, "MINUTE": 1.0, "HOUR": 60.0}
    if "backup_after" in config or "backup_after_unit" in config:
        after, unit = config.number("backup_after"), config.word("backup_after_unit")
        if unit in minutes:
            report.set("autosave_minutes", after * minutes[unit], "backup_after")
        elif unit != "NEVER":
            report.unsupported.append(
                f"backup_after = {after:g} {unit}: snapshots are saved every few minutes, see Autosave."
            )
    if config.flag("rolling_backup"):
        report.set("snapshots_to_keep", config.number("rolling_backup_count"), "rolling_backup_count")
    config.skip(["rolling_backup_count", "backup_after", "backup_after_unit"])


def _set_interval(
    report: ImportReport, key: str, every: float, unit: str, settings: tuple[str, str], length: Length, source: str
) -> None:
    """``settings``: those for epochs and for steps; OneTrainer counts batches as steps."""
    accumulation = max(1, report.settings.get("gradient_accumulation_steps", 1))
    epochs = max(1, round(every / length.factor)) if unit == "EPOCH" and every >= 1 else 0
    steps = max(1, round(every / accumulation)) if unit == "STEP" and every >= 1 else 0
    report.set(settings[0], epochs, source if epochs or not steps else "")
    report.set(settings[1], steps, source if steps else "")
    if unit not in ("EPOCH", "STEP", "NEVER"):
        report.unsupported.append(f"{key} = {every:g} {unit}: intervals are epochs or steps, so it is off.")


def import_validation(report: ImportReport, config: NestedValues, length: Length) -> None:
    on = config.flag("validation") and any(concept.validation_data_dir for concept in report.concepts)
    after, unit = config.number("validate_after"), config.word("validate_after_unit")
    steps_per_epoch = max(1, round(length.steps / length.epochs)) if length.steps else 0
    interval = 0
    if on:
        interval = int(after * steps_per_epoch) if unit == "EPOCH" else int(after) if unit == "STEP" else 0
        if not interval:
            report.unsupported.append(f"validate_after = {after:g} {unit}: set Validation frequency (steps).")
    report.set("validation_every", interval, "validate_after" if interval else "")
    if config.flag("validation") and not on:
        report.unsupported.append("validation: there is no enabled validation concept, so it is off.")
