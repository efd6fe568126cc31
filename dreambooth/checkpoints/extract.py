"""Create: a checkpoint taken apart into ``working`` (diffusers' layout) and ``source`` (all that it lacks).

Tensors pass through one by one, in the dtype they have, so memory stays near the largest of them. Both folders are
made beside and renamed at the end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.family import Family
from dreambooth.checkpoints.layout import Layout, Shape, TensorSlice, part_shape, split
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.manifest import UNMAPPED, ManifestEntry, Manifest, dtype_name
from dreambooth.checkpoints.modules import TOKENIZERS, WEIGHTS, disk_shapes, fingerprint, meta_module
from dreambooth.checkpoints.recognition import component_configs, recognize_family
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.tokenizer import write_tokenizer
from dreambooth.checkpoints.writing import cast, is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.files import clear_leftovers, atomic_folder, require_free_space, write_json
from dreambooth.settings import ModelInfo, ModelFolder
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import DTYPES, TensorSpec, Tensors, TensorWriter
from dreambooth.types import ProgressCallback

log = logging.getLogger("dreambooth.checkpoints")

FP8 = {dtype for name, dtype in DTYPES.items() if name.startswith("F8_")}


@dataclass(frozen=True)
class TensorMove:
    """One tensor's way from the source into a file of ours, where it may become several."""

    key: str
    component: str
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]  # as they are written: the module's shapes, the dtype kept
    transposed: bool = False

    @property
    def places(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]


def extract(
    source: Path,
    model: ModelFolder,
    *,
    model_type: str = AUTO,
    prediction_type: str = AUTO,
    vae: Path | None = None,
    extract_ema: bool = False,
    dtype: torch.dtype | None = None,
    origin: str = "",
    progress: ProgressCallback | None = None,
) -> ModelInfo:
    """Make ``model.working`` and ``model.source`` from a single file or a diffusers folder; existing ones are replaced.

    ``vae``: a file or folder whose VAE is taken instead. ``extract_ema`` also makes ``working/ema_unet`` from the
    source's averaged weights; without it they are kept as they are. ``dtype`` converts the components. ``origin`` is
    what people call the source, if not its path. ``progress`` counts tensors. UserError says what is wrong with the
    source, or that the disk is full; then, as after Cancelled, nothing has changed.
    """
    source = Path(source).absolute()
    with open_source(source, vae) as tensors, _remove_if_empty(model.root):
        family, prediction = recognize_family(tensors, model_type, prediction_type)
        configs = component_configs(family, tensors)
        moves = plan_extraction(tensors, family.layout(configs), configs, extract_ema=extract_ema, dtype=dtype)
        clear_leftovers(model.root)
        n_bytes = sum(spec.n_bytes for move in moves for spec in move.specs)
        require_free_space(model.root, n_bytes + 20_000_000, f"Creating {model.name}")
        shapes = {key: tensors.shape(key) for key in tensors}
        scheduler = family.scheduler_config(prediction, shapes, tensors.metadata)
        # The large folder is in place first, so that only a moment passes until both are.
        with atomic_folder(model.source) as kept, atomic_folder(model.working) as working:
            _write_configs(working, family, configs, moves, scheduler)
            entries = _move_all(tensors, moves, working, kept, progress)
            components = {move.component for move in moves} - {UNMAPPED}
            fingerprints = {component: fingerprint(working, component) for component in sorted(components)}
            Manifest(family.model_type, str(source), tensors.metadata, fingerprints, entries).save(kept)
    has_ema = any(move.component == "ema_unet" for move in moves)
    if dtype is None and any(tensors.dtype(move.key) in FP8 for move in moves if move.component != UNMAPPED):
        log.warning("%s is in fp8: it was created in fp16, and is written so.", source)
    if extract_ema and not has_ema:
        log.warning("%s has no EMA weights: only its plain ones were extracted.", source)
    return ModelInfo(model_type=family.model_type, src=origin or str(source), prediction_type=prediction, has_ema=has_ema)


def plan_extraction(
    tensors: Tensors,
    layout: Layout,
    configs: Mapping[str, Mapping[str, Any]],
    *,
    extract_ema: bool,
    dtype: torch.dtype | None,
) -> list[TensorMove]:
    """Where every tensor of the source goes. UserError when the components would not be complete."""
    expected = {component: _expected(tensors.path, component, config) for component, config in configs.items()}
    shapes = {TensorRef(part, name): shape for part, names in expected.items() for name, shape in names.items()}
    ema_slots = _ema_slots(tensors, layout, expected["unet"]) if extract_ema else {}
    shapes |= {place: expected["unet"][place.name] for slot in ema_slots.values() for place in slot.places}
    moves, taken = [], set()
    for key in tensors:
        slot = ema_slots.get(key) or layout.slot(key)
        if slot is None or not shapes.keys() >= set(slot.places) or not taken.isdisjoint(slot.places):
            moves.append(TensorMove(key, UNMAPPED, (key,), (TensorSpec(tensors.shape(key), tensors.dtype(key)),)))
            continue
        taken.update(slot.places)
        kept = dtype if dtype and tensors.dtype(key).is_floating_point else _trainable(tensors.dtype(key))
        names = tuple(place.name for place in slot.places)
        specs = tuple(TensorSpec(shapes[place], kept) for place in slot.places)
        moves.append(TensorMove(key, slot.places[0].component, names, specs, slot.transposed))
    _require_complete(tensors, layout, shapes, moves)
    return moves


def _trainable(dtype: torch.dtype) -> torch.dtype:
    """fp8 is widened, which loses nothing: what training changes would be rounded away in it."""
    return torch.float16 if dtype in FP8 else dtype


def _require_complete(tensors: Tensors, layout: Layout, shapes: Mapping[TensorRef, Shape], moves: list[TensorMove]) -> None:
    found = {place for move in moves for place in move.places}
    missing = [layout.key(place) or place.name for place in shapes if place not in found]
    if missing:
        raise UserError(
            f"{tensors.path} is incomplete: {len(missing)} tensors are missing, the first is {missing[0]}. "
            "Download it again or use another one."
        )
    for move in moves:
        if move.component == UNMAPPED:
            continue
        # A 1x1 convolution may be a linear layer in the module: same values, fewer dimensions.
        belongs = [_squeezed(spec.shape) for spec in move.specs]
        part = _squeezed(part_shape(tensors.shape(move.key), len(belongs), move.transposed))
        if any(part != shape for shape in belongs):
            raise UserError(
                f"{tensors.path} is inconsistent: {move.key} has the shape {tensors.shape(move.key)}, "
                f"where {'x'.join(map(str, move.specs[0].shape))} {'each ' if len(belongs) > 1 else ''}belongs. "
                "Use another file."
            )
        if not move.specs[0].dtype.is_floating_point or move.key.removesuffix("weight") + "scale_weight" in tensors:
            raise UserError(
                f"{tensors.path} is quantised ({move.key} holds whole or scaled numbers), which can't be trained: "
                "use the checkpoint that it was made from."
            )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _expected(source: Path, component: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    try:
        return disk_shapes(component, meta_module(component, config))
    except Exception as error:  # the libraries have exceptions of their own for it, others with each version
        why = " ".join(str(error).split())
        raise UserError(f"{source}: its {component} has sizes that can't be built ({why}).") from error


def _ema_slots(tensors: Tensors, layout: Layout, unet: Mapping[str, Any]) -> dict[str, TensorSlice]:
    """EMA keys to places in ema_unet; none when the source has not all of them."""
    slots = {}
    for place in (TensorRef("ema_unet", name) for name in unet):
        key = layout.key(place)
        if key is None or key not in tensors:
            return {}
        slots[key] = TensorSlice((place,))
    return slots


def _write_configs(
    working: Path,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]],
    moves: list[TensorMove],
    scheduler: Mapping[str, Any],
) -> None:
    for component in sorted({move.component for move in moves} - {UNMAPPED}):
        (working / component).mkdir()
        write_json(working / component / "config.json", configs[component.removeprefix("ema_")])
    write_json(working / "model_index.json", family.model_index(configs["unet"]))
    write_json(working / "scheduler" / "scheduler_config.json", scheduler)
    for component, prefix in family.text_prefixes.items():
        length = configs[component]["max_position_embeddings"]
        write_tokenizer(working / TOKENIZERS[component], length, open_clip=not prefix.endswith("transformer."))


def _move_all(
    tensors: Tensors, moves: list[TensorMove], working: Path, kept: Path, progress: ProgressCallback | None
) -> tuple[ManifestEntry, ...]:
    with contextlib.ExitStack() as stack:
        writers: dict[str, TensorWriter] = {}
        for component in {move.component for move in moves} | {UNMAPPED}:
            path = kept / "rest.safetensors" if component == UNMAPPED else working / component / WEIGHTS[component]
            of_it = [move for move in moves if move.component == component]
            specs = {name: spec for move in of_it for name, spec in zip(move.names, move.specs, strict=True)}
            writers[component] = stack.enter_context(TensorWriter(path, specs, {"format": "pt"}))
        # Hashing takes as long as writing, and a second thread can do it meanwhile.
        hashing = stack.enter_context(ThreadPoolExecutor(1))
        hashed: list[Future[str]] = []
        for number, move in enumerate(moves):
            tensor = tensors.get(move.key)
            if move.component != UNMAPPED:
                _require_finite(tensors, move.key, tensor)
                tensor = cast(tensor, move.specs[0].dtype, f"{tensors.path}: {move.key}")
            if hashed:
                hashed[-1].result()  # no more than two tensors are held
            hashed.append(hashing.submit(tensor_hash, tensor))
            parts = split(tensor, [spec.shape for spec in move.specs], move.transposed)
            for name, part in zip(move.names, parts, strict=True):
                writers[move.component].write(name, part)
            if progress:
                progress(number + 1, len(moves), "Extracting")
    return tuple(_entry(tensors, move, digest.result()) for move, digest in zip(moves, hashed, strict=True))


def _entry(tensors: Tensors, move: TensorMove, digest: str) -> ManifestEntry:
    shape, dtype = tensors.shape(move.key), dtype_name(move.specs[0].dtype)
    return ManifestEntry(move.key, dtype, shape, digest, move.component, move.names, move.transposed)


def _require_finite(tensors: Tensors, key: str, tensor: torch.Tensor) -> None:
    if not is_finite(tensor):
        raise UserError(
            f"{tensors.path} is damaged: {key} holds values that are not numbers (NaN or infinite). Use another file."
        )


@contextlib.contextmanager
def _remove_if_empty(folder: Path) -> Iterator[None]:
    """A refused source leaves no empty model folder behind."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
