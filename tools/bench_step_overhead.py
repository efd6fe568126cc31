#!/usr/bin/env python
"""CPU time and launches of a step where the kernels have next to nothing to compute: what Python and torch take.

    python tools/bench_step_overhead.py                 SD1.5 and SDXL
    python tools/bench_step_overhead.py SDXL --rounds 5

UNets of full depth with 8 channels, on the CPU with one thread, batch 1, gradient checkpointing, bf16, without oneDNN,
which prepares each of its kernels for longer than a launch takes. A GPU waits for this time where its kernels take
less. ``former`` is the step with the libraries' gradient checkpointing, which stores the state of the random number
generators and has hooks for each saved tensor, with autocast, with divisions by 1, and with attention that inspects
the signature of its processor; ``now`` is the step of ``train``. Both are measured alternately, in CPU seconds, so that
other load affects both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from dreambooth.checkpoints.modules import Modules  # noqa: E402
from dreambooth.models.registry import family_of  # noqa: E402
from dreambooth.training.adapters import AdapterConfig, AdapterLayer, inject  # noqa: E402
from dreambooth.training.attention import skip_signature_checks  # noqa: E402
from dreambooth.training.gradient_checkpointing import checkpoint_gradients  # noqa: E402
from dreambooth.training.master_weights import groups_of, low_precision  # noqa: E402
from dreambooth.training.unit_factors import skip_unit_factors  # noqa: E402

MODELS = {"SD1.5": ("v1x", "sd15"), "SDXL": ("SDXL", "sdxl-base")}
MODES = ("LoRA", "full, pure bf16")
CHANNELS, RANK = 8, 4
DTYPE = torch.bfloat16


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    torch._C._set_mkldnn_enabled(False)
    print("| model | mode | former ms | now ms | ratio | former operators | now operators |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models or MODELS:
        for mode in MODES:
            former, now = (_make_step(name, mode, is_former) for is_former in (True, False))
            counts = [_operators(step) for step in (former, now)]  # the first step of each is not measured
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.rounds):
                for step, own in zip((former, now), seconds, strict=True):
                    own.append(_cpu_seconds(step))
            before, after = (1e3 * statistics.median(own) for own in seconds)
            figures = f"{before:.0f} | {after:.0f} | {after / before:.2f} | {counts[0]:,} | {counts[1]:,}"
            print(f"| {name} | {mode} | {figures} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{' or '.join(MODELS)} (default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind (default: 5)")
    return parser.parse_args()


@dataclass(frozen=True)
class _Unet:
    module: Any
    layers: dict[str, AdapterLayer]
    inputs: dict[str, Any]


def _make_step(name: str, mode: str, is_former: bool) -> Callable[[], None]:
    """Forward and backward pass; gradients are dropped."""
    unet = _make_unet(name, lora=mode == "LoRA")
    if is_former:
        unet.module.enable_gradient_checkpointing()
    else:
        checkpoint_gradients(unet.module)
        skip_unit_factors(unet.module)
        skip_signature_checks(unet.module)
    latents = torch.randn(1, 4, 8, 8)
    groups = groups_of([unet.module])
    trained = [parameter for parameter in unet.module.parameters() if parameter.requires_grad]

    def step() -> None:
        autocast = torch.autocast("cpu", DTYPE) if is_former else contextlib.nullcontext()
        with low_precision(() if is_former else unet.layers.values(), DTYPE, groups) as copies:
            with autocast:
                output = unet.module(latents.to(DTYPE), torch.tensor([5]), **unet.inputs)[0]
                loss = F.mse_loss(output.float(), latents)
            loss.backward()
            copies.collect_gradients()
        for parameter in trained:
            parameter.grad = None

    return step


def _make_unet(name: str, lora: bool) -> _Unet:
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    model_type, table = MODELS[name]
    family = family_of(model_type)
    rows = json.loads(gzip.decompress((ROOT / "tests" / "data" / "keys" / f"{table}.json.gz").read_bytes()))
    configs = dict(family.configs({key: tuple(shape) for key, (shape, _) in rows.items()}, {}))
    config = {key: value for key, value in configs["unet"].items() if not key.startswith("_")}
    levels = len(config["block_out_channels"])
    config |= {
        "block_out_channels": [CHANNELS] * levels, "cross_attention_dim": CHANNELS, "norm_num_groups": 4,
        "attention_head_dim": [1] * levels,
    }  # fmt: skip
    inputs: dict[str, Any] = {"encoder_hidden_states": torch.randn(1, 77, CHANNELS, dtype=DTYPE), "return_dict": False}
    if config.get("addition_embed_type"):  # SDXL's pooled embedding and six numbers of its sizes
        config |= {"projection_class_embeddings_input_dim": 64, "addition_time_embed_dim": 8}
        pooled = {"text_embeds": torch.randn(1, 16, dtype=DTYPE), "time_ids": torch.ones(1, 6)}
        inputs["added_cond_kwargs"] = pooled
    module: Any = diffusers.UNet2DConditionModel(**config)
    module.to(DTYPE).requires_grad_(not lora).train()
    modules = Modules(family, family.layout({**configs, "unet": {**configs["unet"], **config}}), {}, {"unet": module})
    layers = inject(modules, "unet", AdapterConfig("LoRA", RANK, RANK), seed=0) if lora else {}
    return _Unet(module, layers, inputs)


def _cpu_seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


class _Counter(TorchDispatchMode):
    """Counts operators that are not views."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += not func.is_view
        return func(*args, **(kwargs or {}))


def _operators(step: Callable[[], None]) -> int:
    with _Counter() as counter:
        step()
    return counter.n


if __name__ == "__main__":
    main()
