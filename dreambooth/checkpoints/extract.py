"""Create: a checkpoint taken apart into ``working`` (diffusers' layout) and ``source`` (all that it lacks).

Tensors pass through one by one, in the dtype they have, so memory stays near the largest of them. Both folders are
made beside and renamed at the end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.family import Family, Layout, recognise
from dreambooth.checkpoints.folder_source import open_source
from dreambooth.checkpoints.ldm_names import Place
from dreambooth.checkpoints.manifest import REST, Entry, Manifest, dtype_name
from dreambooth.checkpoints.modules import WEIGHTS, disk_shapes, fingerprint, skeleton
from dreambooth.checkpoints.reading import Tensors
from dreambooth.checkpoints.tokenizer import write_tokenizer
from dreambooth.checkpoints.writing import Spec, TensorWriter, cast, is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.files import clear_leftovers, replacing_folder, require_free_space, write_json
from dreambooth.settings import Facts, ModelFolder

log = logging.getLogger("dreambooth.checkpoints")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Move:
    """One tensor's way from the source into a file of ours."""

    key: str
    place: Place
    spec: Spec  # as it is written: the module's shape, the dtype kept


def extract(
    source: Path,
    model: ModelFolder,
    *,
    extract_ema: bool = False,
    half: bool = False,
    progress: Progress | None = None,
) -> Facts:
    """Make ``model.working`` and ``model.source`` from a single file or a diffusers folder; existing ones are replaced.

    ``extract_ema`` also makes ``working/ema_unet`` from the source's averaged weights; without it they are kept as
    they are. ``half`` stores the components in fp16. ``progress`` counts tensors. UserError says what is wrong with
    the source, or that the disk is full; then, as after Cancelled, nothing has changed.
    """
    source = Path(source).absolute()
    with open_source(source) as tensors, _remove_if_empty(model.root):
        family = recognise(tensors)
        configs = _configs(family, tensors)
        moves = plan_moves(tensors, family.layout(configs), configs, extract_ema=extract_ema, half=half)
        clear_leftovers(model.root)
        n_bytes = sum(move.spec.n_bytes for move in moves)
        require_free_space(model.root, n_bytes + 20_000_000, f"Creating {model.name}")
        prediction_type = family.prediction_type(tensors.metadata)
        # The large folder is in place first, so that only a moment passes until both are.
        with replacing_folder(model.source) as kept, replacing_folder(model.working) as working:
            _write_configs(working, family, configs, moves, prediction_type)
            entries = _move_all(tensors, moves, working, kept, progress)
            components = {move.place.component for move in moves} - {REST}
            fingerprints = {component: fingerprint(working, component) for component in sorted(components)}
            Manifest(family.model_type, str(source), tensors.metadata, fingerprints, entries).save(kept)
    has_ema = any(move.place.component == "ema_unet" for move in moves)
    if extract_ema and not has_ema:
        log.warning("%s has no EMA weights: only its plain ones were extracted.", source)
    return Facts(model_type=family.model_type, src=str(source), prediction_type=prediction_type, has_ema=has_ema)


def plan_moves(
    tensors: Tensors,
    layout: Layout,
    configs: Mapping[str, Mapping[str, Any]],
    *,
    extract_ema: bool,
    half: bool,
) -> list[Move]:
    """Where every tensor of the source goes. UserError when the components would not be complete."""
    expected = {component: _expected(tensors.path, component, config) for component, config in configs.items()}
    shapes = {Place(part, name): shape for part, names in expected.items() for name, shape in names.items()}
    ema_places = _ema_places(tensors, layout, expected["unet"]) if extract_ema else {}
    shapes |= {place: expected["unet"][place.name] for place in ema_places.values()}
    moves, taken = [], set()
    for key in tensors:
        place = ema_places.get(key) or layout.place(key)
        if place is None or place not in shapes or place in taken:
            place = Place(REST, key)
            moves.append(Move(key, place, Spec(tensors.shape(key), tensors.dtype(key))))
            continue
        taken.add(place)
        dtype = torch.float16 if half and tensors.dtype(key).is_floating_point else tensors.dtype(key)
        moves.append(Move(key, place, Spec(shapes[place], dtype)))
    _require_complete(tensors, layout, shapes, moves)
    return moves


def _require_complete(
    tensors: Tensors, layout: Layout, shapes: Mapping[Place, tuple[int, ...]], moves: list[Move]
) -> None:
    found = {move.place for move in moves}
    missing = [layout.key(place) or place.name for place in shapes if place not in found]
    if missing:
        raise UserError(
            f"{tensors.path} is incomplete: {len(missing)} tensors are missing, the first is {missing[0]}. "
            "Download it again or use another one."
        )
    for move in moves:
        # A 1x1 convolution may be a linear layer in the module: same values, fewer dimensions.
        if _squeezed(tensors.shape(move.key)) != _squeezed(move.spec.shape):
            raise UserError(
                f"{tensors.path} is inconsistent: {move.key} has the shape {tensors.shape(move.key)}, "
                f"where {move.spec.shape} belongs. Use another file."
            )
        if move.place.component != REST and not move.spec.dtype.is_floating_point:
            raise UserError(
                f"{tensors.path} is quantised ({move.key} holds whole numbers), which can't be trained: "
                "use the checkpoint that it was made from."
            )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _configs(family: Family, tensors: Tensors) -> dict[str, dict[str, Any]]:
    shapes = {key: tensors.shape(key) for key in tensors}
    try:
        return family.configs(shapes, tensors.metadata)
    except UserError as error:
        raise UserError(f"{tensors.path}: {error}.") from error


def _expected(source: Path, component: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    try:
        return disk_shapes(component, skeleton(component, config))
    except Exception as error:  # the libraries have exceptions of their own for it, others with each version
        why = " ".join(str(error).split())
        raise UserError(f"{source}: its {component} has sizes that can't be built ({why}).") from error


def _ema_places(tensors: Tensors, layout: Layout, unet: Mapping[str, Any]) -> dict[str, Place]:
    """EMA keys to places in ema_unet; none when the source has not all of them."""
    places = {}
    for place in (Place("ema_unet", name) for name in unet):
        key = layout.key(place)
        if key is None or key not in tensors:
            return {}
        places[key] = place
    return places


def _write_configs(
    working: Path,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]],
    moves: list[Move],
    prediction_type: str,
) -> None:
    for component in sorted({move.place.component for move in moves} - {REST}):
        (working / component).mkdir()
        write_json(working / component / "config.json", configs[component.removeprefix("ema_")])
    write_json(working / "model_index.json", family.model_index())
    write_json(working / "scheduler" / "scheduler_config.json", family.scheduler_config(prediction_type))
    write_tokenizer(working / "tokenizer", configs["text_encoder"]["max_position_embeddings"])


def _move_all(
    tensors: Tensors, moves: list[Move], working: Path, kept: Path, progress: Progress | None
) -> tuple[Entry, ...]:
    entries = []
    with contextlib.ExitStack() as stack:
        writers: dict[str, TensorWriter] = {}
        for component in {move.place.component for move in moves} | {REST}:
            path = kept / "rest.safetensors" if component == REST else working / component / WEIGHTS[component]
            specs = {move.place.name: move.spec for move in moves if move.place.component == component}
            writers[component] = stack.enter_context(TensorWriter(path, specs, {"format": "pt"}))
        for number, move in enumerate(moves):
            tensor = tensors.get(move.key)
            if move.place.component != REST:
                _require_finite(tensors, move.key, tensor)
                tensor = cast(tensor, move.spec.dtype, f"{tensors.path}: {move.key}")
            writers[move.place.component].write(move.place.name, tensor.reshape(move.spec.shape))
            entries.append(_entry(move, tensor))
            if progress:
                progress(number + 1, len(moves), "Extracting")
    return tuple(entries)


def _entry(move: Move, tensor: torch.Tensor) -> Entry:
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    return Entry(move.key, dtype, shape, tensor_hash(tensor), move.place.component, move.place.name)


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
