"""Create: extracts a checkpoint into ``working`` (diffusers layout) and ``source`` (whatever else is in it).

Components of families with large files are read in place instead of being copied
(:mod:`dreambooth.checkpoints.references`).

Tensors are copied one at a time in their own dtype, so memory is bounded by the largest one. Both folders are written
under temporary names and renamed at the end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.component_search import with_found_files
from dreambooth.checkpoints.extraction_plan import TensorCopy, plan_extraction
from dreambooth.checkpoints.manifest import UNMAPPED, Manifest, ManifestEntry, dtype_name, unmapped_path
from dreambooth.checkpoints.modules import fingerprint
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.references import Reference, write_reference
from dreambooth.checkpoints.source_files import WHOLE, record_files
from dreambooth.checkpoints.sources import Source, open_source_set
from dreambooth.checkpoints.writing import FP8, cast, is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.files import atomic_folder, clear_leftovers, require_free_space, write_json
from dreambooth.models.family import Family
from dreambooth.models.libraries import require_libraries
from dreambooth.models.recognition import Recognition, component_configs
from dreambooth.models.registry import IncompleteSourceError
from dreambooth.settings import ModelFolder, ModelInfo
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors, TensorWriter
from dreambooth.types import ProgressCallback

log = logging.getLogger("dreambooth.checkpoints")


def extract(
    source: Path,
    model: ModelFolder,
    *,
    model_type: str = AUTO,
    prediction_type: str = AUTO,
    vae: Path | None = None,
    text_encoders: Sequence[Path] = (),
    copy_source: bool = False,
    extract_ema: bool = False,
    dtype: torch.dtype | None = None,
    origin: str = "",
    progress: ProgressCallback | None = None,
) -> ModelInfo:
    """Create ``model.working`` and ``model.source`` from a single file or a diffusers folder, replacing existing ones.

    ``vae``, ``text_encoders``: files or folders of other ones. ``extract_ema`` also creates ``working/ema_unet`` from
    the EMA weights of the source; otherwise these are stored unchanged in ``source``. ``dtype`` converts components.
    ``copy_source`` or a ``dtype`` copies also what the family reads in place.
    ``origin`` is the displayed name of the source, by default its path. ``progress`` counts tensors. UserError when the
    source is unusable or the disk is full; then, as after Cancelled, nothing has changed.
    """
    source = Path(source).absolute()
    opened = open_source_set(source, vae, text_encoders)
    with opened.tensors as tensors, _remove_if_empty(model.root):
        try:
            recognition = recognize(tensors, model_type, prediction_type)
        except IncompleteSourceError as error:
            raise with_found_files(error, model.folders) from error
        is_copied = copy_source or dtype is not None or not recognition.family.references_sources
        in_place = [] if is_copied else _readable_in_place(opened, recognition.family, model)
        copies = extract_tensors(
            tensors, model, recognition, source=source, opened=opened, in_place=in_place, extract_ema=extract_ema,
            dtype=dtype, progress=progress,
        )  # fmt: skip
        has_fp8 = any(tensors.dtype(copy.key) in FP8 for copy in copies if copy.component != UNMAPPED)
    has_ema = any(copy.component == recognition.family.denoiser.ema_name for copy in copies)
    for line in (*recognition.notes, *recognition.warnings):
        log.warning("%s: %s", source.name, line)
    if dtype is None and has_fp8:
        log.warning("%s is in fp8: the model was created in fp16, and its checkpoints will be fp16.", source)
    if extract_ema and not has_ema:
        log.warning("%s has no EMA weights: only the regular weights were extracted.", source)
    return ModelInfo(
        model_type=recognition.family.model_type,
        src=origin or str(source),
        prediction_type=recognition.prediction,
        has_ema=has_ema,
        recognized=recognition.reason,
        source_warnings="\n".join(recognition.warnings),
    )


def extract_tensors(
    tensors: Tensors,
    model: ModelFolder,
    recognition: Recognition,
    *,
    source: Path,
    extract_ema: bool,
    opened: Source | None = None,
    in_place: Collection[str] = (),
    dtype: torch.dtype | None = None,
    keep_working_as: Path | None = None,
    keep_source_as: Path | None = None,
    progress: ProgressCallback | None = None,
) -> list[TensorCopy]:
    """Write ``model.working`` and ``model.source`` from an open source, and return what was copied where.

    ``source``: its path for the manifest, which also lists the files of ``opened`` if they are several or read in
    place. ``in_place``: the components that are. ``keep_working_as``, ``keep_source_as``: where existing folders are
    moved to instead of being removed.
    """
    family = recognition.family
    require_libraries(family)
    configs = component_configs(family, tensors)
    if recognition.sample_size:
        configs[family.denoiser.name]["sample_size"] = recognition.sample_size
    copies = plan_extraction(tensors, family, configs, extract_ema=extract_ema, dtype=dtype)
    clear_leftovers(model.root)
    n_bytes = sum(spec.n_bytes for copy in copies if copy.component not in in_place for spec in copy.specs)
    require_free_space(model.root, n_bytes + 20_000_000, f"Creating {model.name}")
    shapes = {key: tensors.shape(key) for key in tensors}
    scheduler = family.scheduler_config(recognition.prediction, shapes, tensors.metadata)
    scheduler |= recognition.schedule
    metadata = family.with_prediction(tensors.metadata, recognition.prediction)
    # Both are renamed when the block ends, ``working`` first, with only an instant between the two.
    with (
        atomic_folder(model.source, keep_old_as=keep_source_as) as source_folder,
        atomic_folder(model.working, keep_old_as=keep_working_as) as working,
    ):
        _write_configs(working, family, configs, copies, scheduler)
        entries = _copy_all(tensors, family, copies, in_place, working, source_folder, progress)
        files = record_files(opened.paths, progress) if opened and (opened.part_paths or in_place) else ()
        for component in in_place:
            own = tuple(file for file in files if file.component == component)
            own = own or tuple(file for file in files if file.component == WHOLE)
            write_reference(working / component, Reference(own, opened is not None and opened.is_diffusers(component)))
        components = {copy.component for copy in copies} - {UNMAPPED}
        fingerprints = {component: fingerprint(working, component) for component in sorted(components)}
        own = _file_components(opened, family, components) if opened else ()
        manifest = Manifest(
            family.model_type, str(source), metadata, fingerprints, entries, tensors.added_prefix, files, own,
            tensors.own_prefix,
        )  # fmt: skip
        manifest.save(source_folder)
        for name, contents in recognition.kept_files.items():
            (source_folder / name).write_bytes(contents)
    return copies


def _readable_in_place(opened: Source, family: Family, model: ModelFolder) -> list[str]:
    """The components whose files are not those of a model, which training would change."""
    models = model.folders.dreambooth.absolute()

    def is_readable(paths: Sequence[Path]) -> bool:
        return bool(paths) and not any(path.absolute().is_relative_to(models) for path in paths)

    return [name for name in family.component_names if is_readable(opened.paths_of(name))]


def _file_components(opened: Source, family: Family, components: Collection[str]) -> tuple[str, ...]:
    """See :class:`Manifest`."""
    if WHOLE not in opened.main_paths:
        return ()
    own = [part for part in family.components if not part.in_checkpoint and part.name not in opened.part_paths]
    return tuple(part.name for part in own if part.name in components)


def _write_configs(
    working: Path,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]],
    copies: list[TensorCopy],
    scheduler: Mapping[str, Any],
) -> None:
    for component in sorted({copy.component for copy in copies} - {UNMAPPED}):
        (working / component).mkdir()
        write_json(working / component / "config.json", configs[family.component(component).name])
    write_json(working / "model_index.json", family.model_index(configs))
    write_json(working / "scheduler" / "scheduler_config.json", scheduler)
    family.write_tokenizers(working, configs)


def _copy_all(
    tensors: Tensors,
    family: Family,
    copies: list[TensorCopy],
    in_place: Collection[str],
    working: Path,
    source: Path,
    progress: ProgressCallback | None,
) -> tuple[ManifestEntry, ...]:
    with contextlib.ExitStack() as stack:
        writers: dict[str, TensorWriter] = {}
        for component in ({copy.component for copy in copies} | {UNMAPPED}) - set(in_place):
            is_unmapped = component == UNMAPPED
            path = unmapped_path(source) if is_unmapped else working / component / family.component(component).weights
            own = [copy for copy in copies if copy.component == component]
            specs = {name: spec for copy in own for name, spec in zip(copy.names, copy.specs, strict=True)}
            writers[component] = stack.enter_context(TensorWriter(path, specs, {"format": "pt"}))
        # Hashing takes as long as writing, so a second thread does it in parallel.
        executor = stack.enter_context(ThreadPoolExecutor(1))
        hashes: list[Future[str]] = []
        for number, copy in enumerate(copies):
            tensor = tensors.get(copy.key)
            if copy.component != UNMAPPED:
                _require_finite(tensors, copy.key, tensor)
                tensor = cast(tensor, copy.specs[0].dtype, f"{tensors.path_of(copy.key)}: {copy.key}")
            if hashes:
                hashes[-1].result()  # so that at most two tensors are in memory
            hashes.append(executor.submit(tensor_hash, tensor))
            if copy.component in writers:
                parts = copy.transform.split(tensor, [spec.shape for spec in copy.specs])
                for name, part in zip(copy.names, parts, strict=True):
                    writers[copy.component].write(name, part)
            if progress:
                progress(number + 1, len(copies), "Extracting")
    return tuple(_entry(tensors, copy, digest.result()) for copy, digest in zip(copies, hashes, strict=True))


def _entry(tensors: Tensors, copy: TensorCopy, digest: str) -> ManifestEntry:
    shape, dtype = tensors.shape(copy.key), dtype_name(copy.specs[0].dtype)
    return ManifestEntry(copy.key, dtype, shape, digest, copy.component, copy.names, copy.transform)


def _require_finite(tensors: Tensors, key: str, tensor: torch.Tensor) -> None:
    if not is_finite(tensor):
        raise UserError(f"{tensors.path_of(key)} is damaged: {key} has NaN or infinite values. Use another file.")


@contextlib.contextmanager
def _remove_if_empty(folder: Path) -> Iterator[None]:
    """Remove the model folder if it is still empty after an error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
