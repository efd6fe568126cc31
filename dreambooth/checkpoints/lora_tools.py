"""Merging LoRAs exactly, and resizing a LoRA to a lower rank by truncated SVD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.checkpoints.adapters import Adapter, Lora
from dreambooth.checkpoints.lora import WeightedLora
from dreambooth.checkpoints.lora_file import UNKNOWN_FAMILY, LoraFile, read_lora, write_lora
from dreambooth.checkpoints.lora_hashes import HASHES
from dreambooth.errors import UserError
from dreambooth.models.adapter_spelling import is_text_encoder_name
from dreambooth.models.registry import FAMILIES
from dreambooth.types import ProgressCallback

ENERGY_KEY = "dreambooth_energy_kept"  # metadata: retained fraction of the original delta's energy, 0 to 1


@dataclass(frozen=True)
class RankLimit:
    """Limits the rank of a LoRA's modules. UserError for invalid values.

    ``rank``: the maximum. ``energy``: use the smallest rank that retains this fraction of the delta's energy, which is
    the sum of its squared singular values. None: no limit.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is None and self.energy is None:
            raise UserError("Limit the size: give a rank, the fraction of energy to keep (0 to 1), or both.")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"The rank is {self.rank}: use at least 1.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UserError(f"The energy to keep is {self.energy}: use a value above 0, at most 1.")

    def choose_rank(self, squares: torch.Tensor) -> int:
        """The rank for squared singular values (descending). Values at the level of rounding errors never count."""
        n = max(int((squares > squares[:1] * 1e-12).sum()), 1)
        if self.energy is not None:
            fractions = squares.cumsum(0) / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
            n = min(n, int((fractions < self.energy).sum()) + 1)
        return n if self.rank is None else min(n, self.rank)


@dataclass
class RetainedEnergy:
    """The energy of the deltas before and after the rank was reduced, summed over modules."""

    total: float = 0.0
    retained: float = 0.0

    def metadata(self) -> dict[str, str]:
        """Metadata for the resulting file."""
        return {ENERGY_KEY: f"{self.retained / self.total:.6f}"} if self.total else {}


def low_rank_factors(
    matrix: torch.Tensor, limit: RankLimit, energy: RetainedEnergy | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best low-rank approximation up @ down of ``matrix`` (rows, columns) (Eckart-Young), with balanced norms.

    Adds to ``energy``. Uses the eigenvectors of the smaller Gram matrix in float64, which for the wide matrices of a
    denoiser is much faster than a singular value decomposition, and exact enough for float32 weights.
    """
    if matrix.shape[0] > matrix.shape[1]:
        up, down = low_rank_factors(matrix.T, limit, energy)
        return down.T, up.T
    matrix = matrix.double()
    squares, basis = torch.linalg.eigh(matrix @ matrix.T)
    squares, basis = squares.flip(0).clamp(min=0), basis.flip(1)
    n = limit.choose_rank(squares)
    if energy:
        energy.total += squares.sum().item()
        energy.retained += squares[:n].sum().item()
    root = squares[:n].sqrt().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return (basis[:, :n] * root).float(), ((basis[:, :n].T @ matrix) / root[:, None]).float()


def make_lora(up: torch.Tensor, down: torch.Tensor, inner: Sequence[int]) -> Lora:
    """A LoRA of ``up`` (out, r) @ ``down`` (r, columns) for a weight (out, *inner), with alpha = rank."""
    rank, kernel = down.shape[0], [1] * len(inner[1:])
    tensors = {"lora_up.weight": up.reshape(-1, rank, *kernel), "lora_down.weight": down.reshape(rank, *inner)}
    return Lora({name: tensor.contiguous() for name, tensor in tensors.items()}, alpha=rank)


def merge_loras(
    loras: Sequence[WeightedLora],
    out: Path,
    dtype: torch.dtype = torch.float16,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write the weighted sum of ``loras`` as one LoRA; a negative weight subtracts.

    The sum is exact: factors are concatenated, so the ranks add up. UserError when a file is not a plain LoRA or
    changes nothing, or when the files are for different model families.
    """
    if not loras:
        raise UserError("There is nothing to merge: give at least one LoRA.")
    files = _with_one_naming([_read_plain_lora(lora.path) for lora in loras])
    _require_one_family(files)
    by_module: dict[str, list[tuple[Adapter, float]]] = {}
    for lora, file in zip(loras, files, strict=True):
        for name, adapter in file.weights.items():
            strength = lora.strength(in_denoiser=not is_text_encoder_name(name))
            by_module.setdefault(name, []).append((adapter, strength))
    merged = {}
    for number, (name, adapters) in enumerate(by_module.items(), 1):
        merged[name] = _concatenate(name, adapters)
        if progress:
            progress(number, len(by_module), "Merging LoRAs")
    names = ", ".join(file.path.stem for file in files)
    write_lora(out, merged, {**_metadata(files[0], merged), "modelspec.merged_from": names}, dtype)
    return Path(out)


def resize_lora(
    path: Path,
    out: Path,
    limit: RankLimit,
    dtype: torch.dtype = torch.float16,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write the LoRA with the ranks reduced to ``limit``, each module as close to the original as possible."""
    [file], energy = _with_one_naming([_read_plain_lora(path)]), RetainedEnergy()
    resized = {}
    for number, (name, adapter) in enumerate(file.weights.items(), 1):
        up, down = _balanced(adapter, 1.0)
        basis, core = torch.linalg.qr(up.double())
        inner_up, inner_down = low_rank_factors(core @ down.flatten(1).double(), limit, energy)
        resized[name] = make_lora((basis @ inner_up.double()).float(), inner_down, down.shape[1:])
        if progress:
            progress(number, len(file.weights), "Resizing the LoRA")
    write_lora(out, resized, {**_metadata(file, resized), **energy.metadata()}, dtype)
    return Path(out)


def rank_metadata(adapters: Iterable[Adapter]) -> dict[str, str]:
    """kohya's metadata of rank and alpha: one number, or "Dynamic" when ranks differ."""
    ranks = {adapter.rank for adapter in adapters}
    size = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": size, "ss_network_alpha": size}


def _read_plain_lora(path: Path) -> LoraFile:
    """Read a file, which may only have plain LoRA adapters. UserError for others, and for one without any effect."""
    file = read_lora(path)
    others = {adapter.kind if adapter.dora_scale is None else "DoRA" for adapter in file.weights.values()}
    others |= {"bias differences"} if file.biases else set()
    if kinds := sorted(others - {Lora.kind}):
        raise UserError(f"{file.path} has {' and '.join(kinds)}: only plain LoRAs can be merged or resized.")
    if file.no_effect:
        raise UserError(file.no_effect)
    return file


def _with_one_naming(files: Sequence[LoraFile]) -> list[LoraFile]:
    """The files with one name for each module, that of their family; of Stable Diffusion's where none is known."""
    family = next((family for file in files if (family := file.family)), FAMILIES[0])
    names = family.common_adapter_names([{name: file.names.get(name, name) for name in file.weights} for file in files])
    return [_renamed(file, new_names) for file, new_names in zip(files, names, strict=True)]


def _renamed(file: LoraFile, names: Mapping[str, str]) -> LoraFile:
    weights: dict[str, Adapter] = {}
    for old, adapter in file.weights.items():
        name = names[old]
        if name in weights:
            raise UserError(f"{file.path} has two adapters for {name}, under different names. Use another file.")
        weights[name] = adapter
    return LoraFile(file.path, weights, file.metadata)


def _require_one_family(files: Sequence[LoraFile]) -> None:
    families = {file.made_for: file.path for file in files if file.made_for != UNKNOWN_FAMILY}
    if len(families) > 1:
        listed = ", ".join(f"{path} was made for {family}" for family, path in families.items())
        raise UserError(f"{listed}: merge only LoRAs of one model family.")


def _balanced(adapter: Adapter, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """up (out, r) and down (r, in[, k, k]), with the square root of scaling * strength in each; up has the sign."""
    down, up = adapter.tensors["lora_down.weight"].float(), adapter.tensors["lora_up.weight"].float().flatten(1)
    mid = adapter.tensors.get("lora_mid.weight")
    if mid is not None:  # the same delta without lora_mid, at the rank of its first axis
        down = torch.einsum("rskl,si->rikl", mid.float(), down.flatten(1))
    scaling = adapter.scaling * strength
    root = abs(scaling) ** 0.5
    return up * (root if scaling >= 0 else -root), down * root


def _concatenate(name: str, adapters: Sequence[tuple[Adapter, float]]) -> Lora:
    pairs = [_balanced(adapter, strength) for adapter, strength in adapters]
    inner = pairs[0][1].shape[1:]
    sizes = {(up.shape[0], down[0].numel()) for up, down in pairs}
    if len(sizes) > 1:
        listed = " and ".join(f"{columns} to {rows}" for rows, columns in sorted(sizes))
        raise UserError(f"{name} differs in size ({listed}): merge only LoRAs of one model family.")
    up, down = torch.cat([up for up, _ in pairs], dim=1), torch.cat([down.flatten(1) for _, down in pairs])
    return make_lora(up, down, inner)


def _metadata(file: LoraFile, weights: Mapping[str, Adapter]) -> dict[str, str]:
    copied = {key: value for key, value in file.metadata.items() if key.startswith(("ss_", "modelspec."))}
    return {key: value for key, value in (copied | rank_metadata(weights.values())).items() if key not in HASHES}
