"""Making a LoRA of others: several into one, exactly; one into a smaller one, as near as its rank allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.checkpoints.adapters import Adapter, Lora
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.lora import LoraFile, WeightedLora, read_lora, write_lora
from dreambooth.checkpoints.lora_hashes import HASHES
from dreambooth.errors import UserError
from dreambooth.types import ProgressCallback

_ORIGINAL_NAMES = ("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_", "lora_unet_out_")
ENERGY_KEY = "dreambooth_energy_kept"  # of what a file was made from, 0 to 1


@dataclass(frozen=True)
class RankLimit:
    """How large a LoRA's modules may be. UserError for what can't be.

    ``rank``: at most so much; ``energy``: as much as it takes to keep this share of the change's energy, which is the
    sum of its squared singular values. None: no such limit.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is None and self.energy is None:
            raise UserError("Say how large it may be: a rank, or the share of energy to keep (0 to 1), or both.")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"The rank is {self.rank}: give at least 1.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UserError(f"The share of energy is {self.energy}: give more than 0 and at most 1.")

    def kept(self, squares: torch.Tensor) -> int:
        """How many of the squared singular values (descending) to keep; those lost in rounding never count."""
        n = max(int((squares > squares[:1] * 1e-12).sum()), 1)
        if self.energy is not None:
            shares = squares.cumsum(0) / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
            n = min(n, int((shares < self.energy).sum()) + 1)
        return n if self.rank is None else min(n, self.rank)


@dataclass
class RetainedEnergy:
    """How much of a change's energy is kept, added up over its modules."""

    whole: float = 0.0
    kept: float = 0.0

    def metadata(self) -> dict[str, str]:
        """For the file that keeps it."""
        return {ENERGY_KEY: f"{self.kept / self.whole:.6f}"} if self.whole else {}


def low_rank_factors(matrix: torch.Tensor, size: RankLimit, energy: RetainedEnergy | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(up, down) whose product comes nearest to ``matrix`` (rows, columns) (Eckart-Young); each of the same norm.

    What that keeps is added to ``energy``.

    By the eigenvectors of the smaller of its two Gram matrices, in float64: for the wide matrices of a unet far
    sooner done than a singular value decomposition, and as exact as float32 weights need.
    """
    if matrix.shape[0] > matrix.shape[1]:
        up, down = low_rank_factors(matrix.T, size, energy)
        return down.T, up.T
    matrix = matrix.double()
    squares, basis = torch.linalg.eigh(matrix @ matrix.T)
    squares, basis = squares.flip(0).clamp(min=0), basis.flip(1)
    n = size.kept(squares)
    if energy:
        energy.whole += squares.sum().item()
        energy.kept += squares[:n].sum().item()
    share = squares[:n].sqrt().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return (basis[:, :n] * share).float(), ((basis[:, :n].T @ matrix) / share[:, None]).float()


def make_lora(up: torch.Tensor, down: torch.Tensor, inner: Sequence[int]) -> Lora:
    """An adapter of ``up`` (out, r) @ ``down`` (r, columns), for a weight of (out, *inner)."""
    rank, kernel = down.shape[0], [1] * len(inner[1:])
    tensors = {"lora_up.weight": up.reshape(-1, rank, *kernel), "lora_down.weight": down.reshape(rank, *inner)}
    return Lora({name: tensor.contiguous() for name, tensor in tensors.items()}, alpha=rank)


def merge_loras(
    uses: Sequence[WeightedLora], out: Path, dtype: torch.dtype = torch.float16, progress: ProgressCallback | None = None
) -> Path:
    """One LoRA that does what all of ``uses`` do together, each at its weights; a negative one takes away.

    Exact: factors are put side by side, so ranks add up. UserError when one is of another kind, or they were made
    for different models, or name their modules in different ways.
    """
    if not uses:
        raise UserError("There is nothing to merge: give at least one LoRA.")
    files = [_plain_file(use.path) for use in uses]
    _require_one_family(files)
    numbered = any(name.startswith("lora_te2_") for file in files for name in file.weights)
    parts: dict[str, list[tuple[Adapter, float]]] = {}
    for use, file in zip(uses, files, strict=True):
        for name, adapter in file.weights.items():
            strength = use.strength(TensorRef("unet" if name.startswith("lora_unet_") else "text_encoder", name))
            parts.setdefault(_text_name(name, numbered), []).append((adapter, strength))
    merged = {}
    for number, (name, adapters) in enumerate(parts.items(), 1):
        merged[name] = _side_by_side(name, adapters)
        if progress:
            progress(number, len(parts), "modules")
    names = ", ".join(file.path.stem for file in files)
    write_lora(out, merged, {**_metadata(files[0], merged), "modelspec.merged_from": names}, dtype)
    return Path(out)


def resize_lora(
    path: Path, out: Path, size: RankLimit, dtype: torch.dtype = torch.float16, progress: ProgressCallback | None = None
) -> Path:
    """The LoRA with fewer dimensions, each module as near to what it was as ``size`` allows."""
    file, energy = _plain_file(path), RetainedEnergy()
    smaller = {}
    for number, (name, adapter) in enumerate(file.weights.items(), 1):
        up, down = _balanced(adapter, 1.0)
        basis, core = torch.linalg.qr(up.double())
        inner_up, inner_down = low_rank_factors(core @ down.flatten(1).double(), size, energy)
        smaller[name] = make_lora((basis @ inner_up.double()).float(), inner_down, down.shape[1:])
        if progress:
            progress(number, len(file.weights), "modules")
    write_lora(out, smaller, {**_metadata(file, smaller), **energy.metadata()}, dtype)
    return Path(out)


def rank_metadata(adapters: Iterable[Adapter]) -> dict[str, str]:
    """kohya's metadata on ranks: one number, or that they differ."""
    ranks = {adapter.rank for adapter in adapters}
    size = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": size, "ss_network_alpha": size}


def _plain_file(path: Path) -> LoraFile:
    """A file of plain LoRA alone, under kohya's names."""
    file = read_lora(path)
    others = {adapter.kind if adapter.dora_scale is None else "DoRA" for adapter in file.weights.values()}
    others |= {"changed biases"} if file.biases else set()
    if kinds := sorted(others - {Lora.kind}):
        raise UserError(f"{file.path} holds {' and '.join(kinds)}: only plain LoRAs can be merged or resized.")
    weights = {_kohya_name(name): adapter for name, adapter in file.weights.items()}
    return LoraFile(file.path, weights, file.metadata)


def _kohya_name(name: str) -> str:
    """diffusers' module names (dots as underscores) with kohya's prefixes."""
    for theirs, ours in (("text_encoder_2_", "lora_te2_"), ("text_encoder_", "lora_te_"), ("unet_", "lora_unet_")):
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            in_text_model = ours == "lora_unet_" or rest.startswith("text_model_")
            return ours + (rest if in_text_model else f"text_model_{rest}")
    return name if name.startswith("lora_") else f"lora_unet_{name}"


def _text_name(name: str, numbered: bool) -> str:
    """The first text encoder's name: with a number where there is a second one, without where it is the only one."""
    for prefix in ("lora_te_", "lora_te1_"):
        if name.startswith(prefix):
            return ("lora_te1_" if numbered else "lora_te_") + name.removeprefix(prefix)
    return name


def _require_one_family(files: Sequence[LoraFile]) -> None:
    families = {file.made_for: file.path for file in files if file.made_for != "another model"}
    if len(families) > 1:
        told = ", ".join(f"{path} was made for {family}" for family, path in families.items())
        raise UserError(f"{told}: merge LoRAs of one family only.")
    naming = {name.startswith(_ORIGINAL_NAMES): file.path
              for file in files for name in file.weights if name.startswith("lora_unet_")}  # fmt: skip
    if len(naming) > 1:
        told = " and ".join(map(str, naming.values()))
        raise UserError(f"{told} name the unet's modules in different ways (the original's, diffusers'): "
                        "merge LoRAs that one program made.")  # fmt: skip


def _balanced(adapter: Adapter, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(up (out, r), down (r, in[, k, k])), with alpha and strength divided evenly between them; the sign is up's."""
    down, up = adapter.tensors["lora_down.weight"].float(), adapter.tensors["lora_up.weight"].float().flatten(1)
    mid = adapter.tensors.get("lora_mid.weight")
    if mid is not None:  # the same change without the core between the two, at the rank of its first side
        down = torch.einsum("rskl,si->rikl", mid.float(), down.flatten(1))
    factor = adapter.scaling * strength
    half = abs(factor) ** 0.5
    return up * (half if factor >= 0 else -half), down * half


def _side_by_side(name: str, adapters: Sequence[tuple[Adapter, float]]) -> Lora:
    pairs = [_balanced(adapter, strength) for adapter, strength in adapters]
    inner = pairs[0][1].shape[1:]
    sizes = {(up.shape[0], down[0].numel()) for up, down in pairs}
    if len(sizes) > 1:
        told = " and ".join(f"{columns} to {rows}" for rows, columns in sorted(sizes))
        raise UserError(f"{name} differs in size ({told}): merge LoRAs that were made for one model.")
    return make_lora(torch.cat([up for up, _ in pairs], dim=1), torch.cat([down.flatten(1) for _, down in pairs]), inner)


def _metadata(file: LoraFile, weights: Mapping[str, Adapter]) -> dict[str, str]:
    kept = {key: value for key, value in file.metadata.items() if key.startswith(("ss_", "modelspec."))}
    return {key: value for key, value in (kept | rank_metadata(weights.values())).items() if key not in HASHES}
