"""What the Tools tab does, beside the desk: plain values in, words out. No Gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.jobs import Controls, Ended, Events, FileSaved
from dreambooth.settings import parse
from dreambooth.settings.model_folder import MAX_NAME_BYTES, require_name
from dreambooth.settings.tools import ExtractOptions, InspectOptions, MergeInput, MergeOptions, ResizeOptions
from dreambooth.ui import render
from dreambooth.ui.job_runner import errors_as_html
from dreambooth.ui.page_controller import PageController

Values = Mapping[str, Any]


class Tools:
    """Files made of other files. ``shown`` is the model on the page that asks: the outcome is shown with it."""

    def __init__(self, page_controller: PageController) -> None:
        self.page_controller, self.file_choices = page_controller, page_controller.file_choices

    @errors_as_html
    def inspect(self, shown: str | None, given: Values) -> str:
        """What a file is, as a table. It is only read, so nothing has to wait for it."""
        options = parse(InspectOptions, given)
        file = self._chosen("files", options.file, "Choose the file to look at.")
        against = self.file_choices.path("files", options.against)
        from dreambooth.checkpoints.inspection import inspect

        found = inspect(expand_user(file), expand_user(against) if against else None)
        return render.facts(_rows(found.as_dict()))

    @errors_as_html
    def extract(self, shown: str | None, given: Values) -> str:
        options = parse(ExtractOptions, given)
        base = self._chosen("sources", options.base, "Choose the base checkpoint: what the other one was made from.")
        tuned = self._chosen("sources", options.tuned, "Choose the tuned checkpoint: the one that knows more.")

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.extract_lora(
                self._folders(), base, tuned, out, rank=options.rank, energy=options.energy,
                conv_rank=options.conv_rank, precision=options.precision, **progress,
            )  # fmt: skip

        return self._start("extract", shown, options.name or f"{_stem(tuned)}-lora", work)

    @errors_as_html
    def resize(self, shown: str | None, given: Values) -> str:
        options = parse(ResizeOptions, given)
        lora = self._chosen("loras", options.lora, "Choose the LoRA to resize.")

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.resize_lora(
                lora, out, rank=options.rank, energy=options.energy, precision=options.precision, **progress
            )

        return self._start("resize", shown, options.name or f"{lora.stem}-resized", work)

    @errors_as_html
    def merge(self, shown: str | None, given: Values, parts: Sequence[Values]) -> str:
        options, uses = parse(MergeOptions, given), self._parts(parts)

        def work(out: Path, **progress: Any) -> dict[str, Any]:
            return actions.loras.merge_loras(**uses, out=out, precision=options.precision, **progress)

        joined = "+".join(path.stem for path in uses["loras"])
        return self._start("merge", shown, options.name or joined, work)

    @errors_as_html
    def merge_into_checkpoint(self, shown: str | None, settings: Values, parts: Sequence[Values]) -> str:
        """The model that is shown as one file, with the LoRAs merged in, each at its own weights."""
        return self.page_controller.generate(shown, settings, **self._parts(parts))

    def _parts(self, given: Sequence[Values]) -> dict[str, Any]:
        """The LoRAs that were chosen and their weights, as the actions take them."""
        chosen = [parse(MergeInput, part, where=f"LoRA {n}: ") for n, part in enumerate(given, 1)]
        chosen = [part for part in chosen if part.lora.strip()]
        if not chosen:
            raise UserError("Choose the LoRAs to merge.")
        return {
            "loras": [Path(self.file_choices.path("loras", part.lora)) for part in chosen],
            "lora_weights": [part.weight for part in chosen],
            "lora_text_weights": [part.text_weight for part in chosen],
        }

    def _chosen(self, kind: str, chosen: str, otherwise: str) -> Path:
        path = self.file_choices.path(kind, chosen)
        if not path:
            raise UserError(otherwise)
        return Path(path)

    def _start(self, what: str, shown: str | None, name: str, work: Callable[..., dict[str, Any]]) -> str:
        """Make a LoRA of this name, under one that is free, in the host's folder."""
        name = name.strip().removesuffix(".safetensors")[:MAX_NAME_BYTES]
        out = self._folders().loras / f"{require_name(name, 'the name of a file')}.safetensors"

        def job(controls: Controls, events: Events) -> None:
            made = work(out, progress=controls.cancellable(events.progress))
            path = Path(made["lora"])
            events.send(FileSaved("lora", str(path), summary=_summary(made)))
            events.send(Ended("done", text=f"Made {path.name}: {_summary(made)}."))

        return self.page_controller.job_runner.start(what, name, job, beside=shown or "")

    def _folders(self) -> Any:
        return self.page_controller.host.folders()


def _stem(source: Path) -> str:
    """The name of a checkpoint's file, or of the model or diffusers folder."""
    if source.name == "working":
        return source.parent.name
    return source.stem if source.suffix.lower() in (".safetensors", ".ckpt") else source.name


def _rows(found: Mapping[str, Any]) -> dict[str, str]:
    """An inspection, a line of words for each of its parts."""
    rows = {key.replace("_", " "): _words(value) for key, value in found.items()}
    return rows | {"odd": rows["odd"] or "nothing"}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_words, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _summary(made: Mapping[str, Any]) -> str:
    """What came of it, in words."""
    ranks = [int(rank) for rank in made["ranks"]]
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {min(ranks)} to {max(ranks)}"
    megabytes = Path(made["lora"]).stat().st_size / 1e6
    words = [f"{made['modules']} modules", rank, f"{megabytes:.1f} MB"]
    if "energy_kept" in made:
        words.append(f"{made['energy_kept']:.1%} of the change kept")
    return ", ".join(words)
