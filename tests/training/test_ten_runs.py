"""A WebUI lives for days: ten runs in one process, each set differently, leave neither memory nor settings behind."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch

# Those in bf16 first: the kernels that torch and oneDNN cache forever once a CPU has computed in bf16 (some 140 MB,
# more for each new shape) are not a leak.
FIRST = {"use_lora": False, "full_mixed_precision": True, "mixed_precision": "bf16", "use_ema": True, "seed": 5,
         "sanity_prompt": "a red star", "save_state_after": True}  # fmt: skip
RUNS = [
    FIRST,
    {"use_lora": True, "mixed_precision": "bf16", "lora_type": "LoHa", "lora_dora": True, "use_lora_extended": True,
     "lora_unet_dropout": 0.1},
    {"use_lora": True, "validation_every": 2, "validation_share": 0.2, "stop_text_encoder": 0.0, "clip_skip": 2},
    {"use_lora": False, "use_ema": True, "save_ckpt_after": True, "gradient_checkpointing": True},
    {"use_lora": True, "seed": 6, "max_train_steps": 2},
    {"use_lora": False, "use_ema": True, "ema_on_cpu": True, "infer_ema": True, "save_preview_every": 1,
     "save_ckpt_after": False, "ema_precision": "bf16", "gradient_checkpointing": True},
    {"use_lora": True, "deterministic": True, "attention": "sliced", "gradient_accumulation_steps": 2},
    {"use_lora": False, "train_unet": False, "stop_text_encoder": 1.0, "save_state_after": True},
    {"use_lora": True, "lora_type": "LoKr", "offset_noise": 0.1, "train_batch_size": 1},
    FIRST,
]  # fmt: skip


def memory() -> int:
    """Memory of this process in bytes, after garbage collection."""
    gc.collect()
    try:  # glibc does not return freed memory at once
        import ctypes

        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensor_bytes() -> int:
    gc.collect()
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)
    }
    return sum(held.values())


def globals_of_torch() -> tuple:
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.is_autocast_enabled(),
        torch.get_num_threads(), os.environ.get("CUBLAS_WORKSPACE_CONFIG"), list(logging.root.handlers),
        logging.root.level, list(logging.getLogger("dreambooth").handlers), list(sys.path),
        {t.name for t in threading.enumerate() if "dreambooth" in t.name}, torch.initial_seed(),
        torch.random.get_rng_state().tolist(),
    )  # fmt: skip


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read the Linux way")
def test_ten_runs_leave_nothing_behind(train, models_dir, created):
    resident, held, digests = [], [], []
    before = globals_of_torch()
    for settings in RUNS:
        outcome = train(**settings)
        assert outcome.error is None, outcome.error
        digests.append(outcome.digest())
        del outcome
        assert globals_of_torch() == before, settings
        resident.append(memory())
        held.append(tensor_bytes())
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
    assert digests[9] == digests[0], "what a run was set to reached another one"
    assert len(set(digests)) == 8, "all but the first and last differ, and the device of the EMA changes nothing"
    assert held[9] <= 1.05 * held[1] + 1e5
    assert resident[9] <= 1.05 * resident[1]
