"""Create: extracts a checkpoint into ``working`` (diffusers layout) and ``source`` (whatever else is in it).

Tensors are copied one at a time in their own dtype, so memory is bounded by the largest one. Both folders are written
under temporary names and renamed at the end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dreambooth.checkpoints.manifest import UNMAPPED, Manifest, ManifestEntry, dtype_name, unmapped_path
from dreambooth.checkpoints.modules import fingerprint
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.source_files import record_files
from dreambooth.checkpoints.sources import open_source_set
from dreambooth.checkpoints.writing import cast, is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.files import atomic_folder, clear_leftovers, require_free_space, write_json
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, Shape, TensorRef, TensorSlice
from dreambooth.models.libraries import require_libraries
from dreambooth.models.recognition import Recognition, component_configs
from dreambooth.models.transforms import IDENTITY, Transform
from dreambooth.settings import ModelFolder, ModelInfo
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import DTYPES, Tensors, TensorSpec, TensorWriter
from dreambooth.text import count
from dreambooth.types import ProgressCallback

log = logging.getLogger("dreambooth.checkpoints")

# Tensors beside a weight in quantized files, by which its values are multiplied: fp8_scaled, and ComfyUI's.
_SCALES = ("scale_weight", "weight_scale", "comfy_quant")

FP8 = {dtype for name, dtype in DTYPES.items() if name.startswith("F8_")}


@dataclass(frozen=True)
class TensorCopy:
    """Where one tensor of the source is copied to, possibly split into several."""

    key: str
    component: str
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]  # as written: shapes of the module, dtype of the file
    transform: Transform = IDENTITY

    @property
    def refs(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]


def extract(
    source: Path,
    model: ModelFolder,
    *,
    model_type: str = AUTO,
    prediction_type: str = AUTO,
    vae: Path | None = None,
    text_encoders: Sequence[Path] = (),
    extract_ema: bool = False,
    dtype: torch.dtype | None = None,
    origin: str = "",
    progress: ProgressCallback | None = None,
) -> ModelInfo:
    """Create ``model.working`` and ``model.source`` from a single file or a diffusers folder, replacing existing ones.

    ``vae``, ``text_encoders``: files or folders of other ones. ``extract_ema`` also creates ``working/ema_unet`` from
    the EMA weights of the source; otherwise these are stored unchanged in ``source``. ``dtype`` converts components.
    ``origin`` is the displayed name of the source, by default its path. ``progress`` counts tensors. UserError when the
    source is unusable or the disk is full; then, as after Cancelled, nothing has changed.
    """
    source = Path(source).absolute()
    opened = open_source_set(source, vae, text_encoders)
    with opened.tensors as tensors, _remove_if_empty(model.root):
        recognition = recognize(tensors, model_type, prediction_type)
        copies = extract_tensors(
            tensors,
            model,
            recognition,
            source=source,
            paths=opened.paths if opened.is_set else {},
            extract_ema=extract_ema,
            dtype=dtype,
            progress=progress,
        )
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
    paths: Mapping[str, Sequence[Path]] = MappingProxyType({}),
    dtype: torch.dtype | None = None,
    keep_working_as: Path | None = None,
    keep_source_as: Path | None = None,
    progress: ProgressCallback | None = None,
) -> list[TensorCopy]:
    """Write ``model.working`` and ``model.source`` from an open source, and return what was copied where.

    ``source``: its path for the manifest, which also lists ``paths``, the files by component. ``keep_working_as``,
    ``keep_source_as``: where existing folders are moved to instead of being removed.
    """
    family = recognition.family
    require_libraries(family)
    configs = component_configs(family, tensors)
    if recognition.sample_size:
        configs[family.denoiser.name]["sample_size"] = recognition.sample_size
    copies = plan_extraction(tensors, family, configs, extract_ema=extract_ema, dtype=dtype)
    clear_leftovers(model.root)
    n_bytes = sum(spec.n_bytes for copy in copies for spec in copy.specs)
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
        entries = _copy_all(tensors, family, copies, working, source_folder, progress)
        components = {copy.component for copy in copies} - {UNMAPPED}
        fingerprints = {component: fingerprint(working, component) for component in sorted(components)}
        manifest = Manifest(
            family.model_type, str(source), metadata, fingerprints, entries, tensors.added_prefix,
            record_files(paths, progress),
        )  # fmt: skip
        manifest.save(source_folder)
        for name, contents in recognition.kept_files.items():
            (source_folder / name).write_bytes(contents)
    return copies


def plan_extraction(
    tensors: Tensors,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]],
    *,
    extract_ema: bool,
    dtype: torch.dtype | None,
) -> list[TensorCopy]:
    """Where each tensor of the source is copied to. UserError when the components would be incomplete."""
    layout, denoiser = family.layout(configs), family.denoiser
    expected = {component: _expected(tensors.path, family, component, config) for component, config in configs.items()}
    shapes = {TensorRef(part, name): shape for part, names in expected.items() for name, shape in names.items()}
    ema_refs = [TensorRef(denoiser.ema_name, name) for name in expected[denoiser.name]]
    ema_slices = _ema_slices(tensors, layout, ema_refs) if extract_ema else {}
    shapes |= {ref: expected[denoiser.name][ref.name] for ref in ema_refs if ema_slices}
    copies: list[TensorCopy] = []
    assigned: set[TensorRef] = set()
    for key in tensors:
        tensor_slice = ema_slices.get(key) or layout.tensor_slice(key)
        refs = set(tensor_slice.refs) if tensor_slice else set()
        if tensor_slice is None or not refs <= shapes.keys() or refs & assigned:
            copies.append(TensorCopy(key, UNMAPPED, (key,), (TensorSpec(tensors.shape(key), tensors.dtype(key)),)))
            continue
        assigned |= refs
        file_dtype = dtype if dtype and tensors.dtype(key).is_floating_point else _trainable(tensors.dtype(key))
        names = tuple(ref.name for ref in tensor_slice.refs)
        specs = tuple(TensorSpec(shapes[ref], file_dtype) for ref in tensor_slice.refs)
        copies.append(TensorCopy(key, tensor_slice.refs[0].component, names, specs, tensor_slice.transform))
    _require_complete(tensors, layout, shapes, copies)
    return copies


def _trainable(dtype: torch.dtype) -> torch.dtype:
    """fp8 is converted to fp16, which is exact: in fp8 most updates of training would be lost to rounding."""
    return torch.float16 if dtype in FP8 else dtype


def _require_complete(
    tensors: Tensors, layout: Layout, shapes: Mapping[TensorRef, Shape], copies: list[TensorCopy]
) -> None:
    found = {ref for copy in copies for ref in copy.refs}
    missing = [layout.key(ref) or ref.name for ref in shapes if ref not in found]
    if missing:
        path = tensors.path_of(missing[0])
        raise UserError(
            f"{path} is incomplete: {count(len(missing), 'tensor')} missing, first {missing[0]}. "
            "Download it again or use another one."
        )
    for copy in copies:
        if copy.component == UNMAPPED:
            continue
        # A 1x1 convolution may be a linear layer in the module: same values, fewer dimensions.
        expected = copy.transform.original_shape([spec.shape for spec in copy.specs])
        if _squeezed(tensors.shape(copy.key)) != _squeezed(expected):
            n_parts = copy.transform.n_parts
            parts = f"{n_parts} parts of " if n_parts > 1 else ""
            raise UserError(
                f"{tensors.path_of(copy.key)} is inconsistent: {copy.key} has the shape {tensors.shape(copy.key)}, "
                f"expected {parts}{'x'.join(map(str, copy.specs[0].shape))}. Use another file."
            )
        module = copy.key.removesuffix("weight")
        if not copy.specs[0].dtype.is_floating_point or any(module + name in tensors for name in _SCALES):
            raise UserError(
                f"{tensors.path_of(copy.key)} is quantized ({copy.key} has integer or scaled values), which can't be "
                "trained: use the checkpoint that it was made from."
            )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _expected(source: Path, family: Family, component: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    try:
        return family.component(component).disk_shapes(family.make_module(component, config))
    except Exception as error:  # the types of the libraries' exceptions differ between versions
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: its {component} has invalid sizes ({reason}): use another file.") from error


def _ema_slices(tensors: Tensors, layout: Layout, refs: Sequence[TensorRef]) -> dict[str, TensorSlice]:
    """The keys of the EMA weights ``refs``; {} unless the source has all of them."""
    tensor_slices = {}
    for ref in refs:
        key, tensor_slice = layout.original(ref) or ("", None)
        if tensor_slice is None or key not in tensors:
            return {}
        tensor_slices[key] = tensor_slice
    return tensor_slices


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
    working: Path,
    source: Path,
    progress: ProgressCallback | None,
) -> tuple[ManifestEntry, ...]:
    with contextlib.ExitStack() as stack:
        writers: dict[str, TensorWriter] = {}
        for component in {copy.component for copy in copies} | {UNMAPPED}:
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
