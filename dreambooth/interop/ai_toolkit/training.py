"""Import of an ai-toolkit job, with its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dreambooth.interop.ai_toolkit.datasets import Dataset, import_datasets, import_masks, report_unsupported
from dreambooth.interop.ai_toolkit.job_file import Job, is_sdxl, read_job
from dreambooth.interop.ai_toolkit.keys import NO_EFFECT_KEYS, NO_EFFECT_PARTS, UNSUPPORTED_KEYS
from dreambooth.interop.ai_toolkit.network import import_network
from dreambooth.interop.ai_toolkit.optimizer import import_components, import_length, import_optimizer, import_schedule
from dreambooth.interop.ai_toolkit.samples import import_samples, import_saving
from dreambooth.interop.ai_toolkit.timesteps import import_timesteps
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues, as_number, describe_ignored
from dreambooth.text import count

_PRECISIONS = {"fp32": "no", "float32": "no", "fp16": "fp16", "float16": "fp16", "bf16": "bf16", "bfloat16": "bf16"}
_COMPILE = ("model.compile", "model.block_compile", "train.compile")


def import_job(report: ImportReport, file: DataFile) -> None:
    job = read_job(file.path, file.data)
    values = job.values
    base = file.path.resolve().parent
    report.search_dirs = [base, base.parent]  # paths are relative to ai-toolkit's folder, which contains config/
    report.set("use_lora", job.has_network, "network" if job.has_network else "")
    report.set("train_batch_size", values.number("train.batch_size"), values.source("train.batch_size"))
    datasets: list[Dataset] = []
    if job.datasets:
        datasets = import_datasets(report, job)
        report.require_concepts(file.path)
    else:
        report.unsupported.append("The file lists no images (datasets), so the concepts are unchanged.")
    _import_resolution(report, datasets)
    import_masks(report, datasets)
    import_network(report, values)
    import_components(report, values)
    import_optimizer(report, values)
    import_length(report, values, datasets)
    import_schedule(report, values)
    import_timesteps(report, values)
    _import_objective(report, values, datasets)
    _import_precision(report, values)
    import_saving(report, job)
    import_samples(report, job)
    report_unsupported(report, datasets)
    _report_the_rest(report, job)


# -- images ---------------------------------------------------------------------------------------------------------


def _import_resolution(report: ImportReport, datasets: Sequence[Dataset]) -> None:
    sides = sorted({side for dataset in datasets for side in dataset.resolutions})
    if not sides:
        return
    report.set("resolution", sides[-1], "resolution")
    report.set("resolution_height", 0)
    if len(sides) > 1:
        report.unsupported.append(
            f"resolution = {', '.join(map(str, sides))}: ai-toolkit trains images at each of these; here all are "
            f"trained at {sides[-1]}."
        )
    first = datasets[0].values
    square = first.flag("square_crop") or not first.flag("buckets")
    for dataset in datasets[1:]:
        dataset.values.skip(["square_crop", "buckets"])
    if square:
        report.set("bucket_rule", "one size", "square_crop" if first.flag("square_crop") else "buckets")
        return
    report.set("bucket_rule", "kohya")
    for key, value in (("bucket_step", 16), ("bucket_min_side", 0), ("bucket_max_side", 0)):
        report.set(key, value)
    report.set("bucket_no_upscale", True)
    report.unsupported.append(
        "Buckets: small images keep their size, as in ai-toolkit, but the sides of buckets differ, by about 16 pixels."
    )


def _import_objective(report: ImportReport, values: NestedValues, datasets: Sequence[Dataset]) -> None:
    for key, setting in (
        ("train.noise_offset", "offset_noise"), ("train.max_grad_norm", "max_grad_norm"),
        ("train.min_snr_gamma", "min_snr_gamma"),
    ):  # fmt: skip
        report.set(setting, values.number(key), values.source(key))
    loss = values.text("train.loss_type").lower()
    kinds = {"mse": "l2", "mae": "l1", "pseudo_huber": "huber"}
    report.set("loss_type", kinds.get(loss, "l2"), values.source("train.loss_type"))
    if loss not in ("mse", "mae"):
        report.unsupported.append(f"train.loss_type = {loss}: {report.settings['loss_type']} is used.")
    for key, value in (
        ("multires_noise_iterations", 0), ("input_perturbation", 0), ("debiased_estimation", False),
        ("zero_terminal_snr", False), ("clip_skip", 1), ("max_token_length", 75), ("weighted_captions", False),
    ):  # fmt: skip
        report.set(key, value)
    if any(dataset.is_regularization for dataset in datasets):
        report.set("prior_loss_weight", values.number("train.reg_weight"), "train.reg_weight")
        report.set("split_loss", True)
        report.unsupported.append(
            "is_reg: regularization images are mixed into all batches; ai-toolkit trains them in every second step."
        )
    scheduler = values.text("train.noise_scheduler").lower()
    if scheduler != "ddpm":
        report.unsupported.append(f"train.noise_scheduler = {scheduler}: the noise schedule of the model is used.")
    if values.flag("model.is_v_pred"):
        report.unsupported.append(
            "model.is_v_pred: the prediction type belongs to the model; choose it when you create it "
            "(--prediction-type v_prediction)."
        )


def _import_precision(report: ImportReport, values: NestedValues) -> None:
    dtype = values.text("train.dtype").lower()
    if dtype in _PRECISIONS:
        report.set("mixed_precision", _PRECISIONS[dtype], values.source("train.dtype"))
    else:
        report.unsupported.append(f"train.dtype = {dtype}: not supported; the current mixed precision is kept.")
    if not report.settings.get("use_lora") and _PRECISIONS.get(dtype) != "no":
        report.unsupported.append(f"train.dtype = {dtype}: trained weights are kept in fp32 here.")
    report.set("full_mixed_precision", False)
    report.set("base_precision", "full")  # ai-toolkit quantizes larger models only
    key = "train.gradient_checkpointing"
    report.set("gradient_checkpointing", values.flag(key), values.source(key))
    compiled = [key for key in _COMPILE if values.flag(key)]
    report.set("torch_compile", bool(compiled), compiled[0] if compiled else "")
    report.set("allow_tf32", True)  # in every run of ai-toolkit
    ema = values.get("train.ema_config")
    on = isinstance(ema, Mapping) and str(ema.get("use_ema")).lower() == "true"
    if on and report.settings.get("use_lora"):
        report.unsupported.append("train.ema_config: a moving average is supported for full training only.")
        on = False
    report.set("use_ema", on, "train.ema_config" if on else "")
    if on and isinstance(ema, Mapping):
        report.set("ema_decay", as_number(ema.get("ema_decay")) or 0.999, "ema_decay")
        report.set("infer_ema", True, "use_ema")  # ai-toolkit saves the average as the model


def _report_the_rest(report: ImportReport, job: Job) -> None:
    """Whatever has not been imported: what it would do, that it does nothing, or that it is unknown."""
    ignored, unknown = [], []
    for name, value in job.values.unread().items():
        part = name.partition(".")[0]
        explanation = UNSUPPORTED_KEYS.get(name) or UNSUPPORTED_KEYS.get(part)
        if value in (False, 0, "", [], {}):
            continue
        if explanation:
            shown = f" = {value}" if isinstance(value, (str, int, float)) else ""
            report.unsupported.append(f"{name if name in UNSUPPORTED_KEYS else part}{shown}: {explanation}.")
        elif name in NO_EFFECT_KEYS or part in NO_EFFECT_PARTS:
            ignored.append(name)
        else:
            unknown.append(name)
    report.unsupported = list(dict.fromkeys(report.unsupported))
    if is_sdxl(job) and "model.is_xl" in ignored:
        ignored.remove("model.is_xl")
    if job.others:
        report.unsupported.append(f"process: only the first training is imported, not {', '.join(job.others)}.")
    if ignored:
        report.unsupported.append(describe_ignored(ignored))
    if unknown:
        report.unsupported.append(f"{count(len(unknown), 'unknown key')} ignored: {', '.join(unknown)}.")
