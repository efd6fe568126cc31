"""Actions behind the Tools tab: plain values in, HTML out. No Gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Ended, Events, FileSaved
from dreambooth.paths import clean_path
from dreambooth.settings import parse
from dreambooth.settings.names import MAX_NAME_BYTES, require_name
from dreambooth.settings.tools import ExtractOptions, InspectOptions, MergeInput, MergeOptions, ResizeOptions
from dreambooth.text import count, format_bytes
from dreambooth.ui import render
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController

Values = Mapping[str, Any]

# Labels of an inspection's JSON keys that say too little by themselves.
INSPECTION_LABELS = {
    "ema": "EMA",
    "beside": "Other tensors",
    "claims": "Metadata",
    "foreign_reader": "safetensors library",
    "moved": "Differences",
    "odd": "Issues",
}


class ToolsController:
    """Creates files from other files. ``shown_model``: the model that the page shows; the job is shown with it."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller, self.file_choices = page_controller, page_controller.file_choices

    @errors_as_html
    def inspect(self, shown_model: str | None, values: Values) -> str:
        """What a file contains, as a definition list. It only reads, so that it needs no job."""
        options = parse(InspectOptions, values)
        file = self._path("files", options.file, "Choose the file to inspect.")
        against = self.file_choices.path("files", options.against)
        from dreambooth.checkpoints.inspection import inspect

        inspection = inspect(clean_path(file), clean_path(against) if against else None)
        return render.definitions(_rows(inspection.as_dict()))

    @errors_as_html
    def extract(self, shown_model: str | None, values: Values) -> str:
        """Extract the difference of two checkpoints as a LoRA."""
        options = parse(ExtractOptions, values)
        base = self._path("sources", options.base, "Choose the base checkpoint, from which the other one was trained.")
        tuned = self._path("sources", options.tuned, "Choose the fine-tuned checkpoint.")

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.extract_lora(
                self._folders(), base, tuned, out, rank=options.rank, energy=options.energy,
                conv_rank=options.conv_rank, precision=options.precision, **progress,
            )  # fmt: skip

        return self._start("extract", shown_model, options.name or f"{_stem(tuned)}-lora", work)

    @errors_as_html
    def resize(self, shown_model: str | None, values: Values) -> str:
        """Reduce the rank of a LoRA."""
        options = parse(ResizeOptions, values)
        lora = self._path("loras", options.lora, "Choose the LoRA to resize.")

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.resize_lora(
                lora, out, rank=options.rank, energy=options.energy, precision=options.precision, **progress
            )

        return self._start("resize", shown_model, options.name or f"{lora.stem}-resized", work)

    @errors_as_html
    def merge(self, shown_model: str | None, values: Values, rows: Sequence[Values]) -> str:
        """Merge LoRAs into one. ``rows``: values of the page's rows, one per LoRA."""
        options, loras = parse(MergeOptions, values), self._loras(rows)

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.merge_loras(**loras, out=out, precision=options.precision, **progress)

        joined = "+".join(path.stem for path in loras["loras"])
        return self._start("merge", shown_model, options.name or joined, work)

    @errors_as_html
    def merge_into_checkpoint(self, shown_model: str | None, settings: Values, rows: Sequence[Values]) -> str:
        """Export the shown model as a single file, with the LoRAs merged in at their weights."""
        return self.page_controller.start_generation(shown_model, settings, **self._loras(rows))

    def _loras(self, rows: Sequence[Values]) -> dict[str, Any]:
        """The chosen LoRAs and their weights, as arguments of the actions."""
        inputs = [parse(MergeInput, row, where=f"LoRA {n}: ") for n, row in enumerate(rows, 1)]
        inputs = [lora for lora in inputs if lora.lora.strip()]
        if not inputs:
            raise UserError("Choose the LoRAs to merge.")
        return {
            "loras": [Path(self.file_choices.path("loras", lora.lora)) for lora in inputs],
            "lora_weights": [lora.weight for lora in inputs],
            "lora_text_weights": [lora.text_weight for lora in inputs],
        }

    def _path(self, kind: str, chosen: str, request: str) -> Path:
        """The chosen file; UserError with ``request`` if there is none."""
        path = self.file_choices.path(kind, chosen)
        if not path:
            raise UserError(request)
        return Path(path)

    def _start(self, kind: str, shown_model: str | None, name: str, work: Callable[..., dict[str, Any]]) -> str:
        """Start a job that writes a LoRA of this name, numbered if it exists, into the host's LoRA folder."""
        name = name.strip().removesuffix(".safetensors")[:MAX_NAME_BYTES]
        out = self._folders().loras / f"{require_name(name, 'the name of a file')}.safetensors"

        def job(controls: Controls, events: Events) -> None:
            report = work(out, progress=controls.cancellable(events.progress))
            path = Path(report["lora"])
            events.send(FileSaved("lora", str(path), summary=_summary(report)))
            events.send(Ended("done", text=f"Created {path.name}: {_summary(report)}."))

        return self.page_controller.job_runner.start(kind, name, job, shown_model=shown_model or "")

    def _folders(self) -> Any:
        return self.page_controller.host.folders()


def _stem(source: Path) -> str:
    """The name of a checkpoint file without its extension, or of a model or diffusers folder."""
    if source.name == "working":
        return source.parent.name
    return source.stem if source.suffix.lower() in (".safetensors", ".ckpt") else source.name


def _rows(inspection: Mapping[str, Any]) -> dict[str, str]:
    """Labels and values of an inspection."""
    labels = {key: INSPECTION_LABELS.get(key, key.capitalize()) for key in inspection}
    rows = {labels[key]: _text(value) for key, value in inspection.items() if value or key == "odd"}
    return {**rows, labels["odd"]: rows[labels["odd"]] or "none"}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _summary(report: Mapping[str, Any]) -> str:
    """Modules, ranks, size and remaining energy of a written LoRA in one line."""
    ranks = [int(rank) for rank in report["ranks"]]
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {min(ranks)} to {max(ranks)}"
    parts = [count(report["modules"], "module"), rank, format_bytes(Path(report["lora"]).stat().st_size)]
    if "energy_kept" in report:
        parts.append(f"{report['energy_kept']:.1%} of the energy kept")
    return ", ".join(parts)
