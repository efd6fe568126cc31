"""CUDA graphs: steps that are replayed train as others do, and training goes on without them where recording fails."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth.settings import ModelFolder, Settings
from dreambooth.training import cuda_graphs, session
from dreambooth.training.cuda_graphs import unavailable_reason
from tests.replayed_graph import ReplayedGraph

FROZEN_TEXT = {"stop_text_encoder": 0.0, "train_batch_size": 1}
RUNS = {
    "LoRA, accumulated": {  # in half precision on the pretend GPU
        **FROZEN_TEXT, "gradient_checkpointing": True, "use_lora_extended": True,
        "gradient_accumulation_steps": 2, "save_preview_every": 2, "validation_every": 3, "max_grad_norm": 0.01,
        "max_train_steps": 6,
    },
    "LoHa with DoRA, loss weights": {
        **FROZEN_TEXT, "lora_type": "LoHa", "lora_dora": True, "min_snr_gamma": 5, "loss_type": "huber",
        "max_train_steps": 7,
    },
    "full, text encoder at first": {
        "use_lora": False, "stop_text_encoder": 0.34, "use_ema": True, "infer_ema": True, "max_train_steps": 10,
        "train_batch_size": 1,
    },
    "quantized, fp32": {
        **FROZEN_TEXT, "base_precision": "int8", "masked_loss": True, "gradient_set_to_none": False,
        "max_train_steps": 7, "train_batch_size": 2,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "graphs_unavailable_reason", lambda settings, device: "")
    monkeypatch.setattr(cuda_graphs, "CudaGraph", ReplayedGraph)
    monkeypatch.setattr(ReplayedGraph, "replays", 0)


@pytest.fixture(autouse=True)
def untrained(mini: ModelFolder, tmp_path: Path) -> None:
    shutil.copytree(mini.working, tmp_path / "untrained")


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_replayed_steps_are_those_of_other_runs_to_the_bit(train, tmp_path: Path, run: dict[str, Any]) -> None:
    plain = train(**run)
    assert not plain.error and ReplayedGraph.replays == 0
    weights = plain.digest()
    if not run.get("use_lora", True):  # which has changed the model
        shutil.copytree(tmp_path / "untrained", plain.model.working, dirs_exist_ok=True)
    replayed = train(**run, cuda_graphs=True)
    assert ReplayedGraph.replays >= 3 and "failed" not in replayed.messages
    assert replayed.losses == plain.losses and replayed.digest() == weights
    assert [e["prior_loss"] for e in replayed.of("step")] == [e["prior_loss"] for e in plain.of("step")]


def test_training_goes_on_without_graphs_where_recording_fails(train, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(ReplayedGraph):
        def capture(self, function: Any) -> Any:
            try:
                function()
                raise RuntimeError("operation not permitted when stream is capturing. Compile with more")
            finally:
                raise RuntimeError("capture failed because of an error before")  # as the end of a capture does

    run = {"max_train_steps": 4, "train_batch_size": 1, "stop_text_encoder": 0.0}
    plain = train(**run)
    monkeypatch.setattr(cuda_graphs, "CudaGraph", Failing)
    failed = train(**run, cuda_graphs=True)
    (line,) = [e["text"] for e in failed.of("message") if "CUDA graphs failed" in e["text"]]
    assert line.endswith("so training goes on without them: operation not permitted when stream is capturing.")
    assert failed.losses == plain.losses and failed.digest() == plain.digest()


def test_out_of_memory_while_recording_is_handled_as_in_any_step(train, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    class Scarce(ReplayedGraph):
        def capture(self, function: Any) -> Any:
            if len(failures) < 2:
                failures.append(1)
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().capture(function)

    run = {"max_train_steps": 6, "stop_text_encoder": 0.0}
    plain = train(**run)
    monkeypatch.setattr(cuda_graphs, "CudaGraph", Scarce)
    scarce = train(**run, cuda_graphs=True)
    assert len(failures) == 2 and "computed in 2 parts" in scarce.messages and ReplayedGraph.replays == 0
    assert scarce.losses == pytest.approx(plain.losses, rel=1e-4)


def test_conditions(train) -> None:
    gpu = torch.device("cuda")
    assert unavailable_reason(Settings(), gpu) == ""
    assert "mps" in unavailable_reason(Settings(), torch.device("mps"))
    excluded = Settings(fused_backward=True, use_lora=True, lora_unet_dropout=0.1)
    assert unavailable_reason(excluded, gpu) == "it can't be combined with lora_unet_dropout"
    assert "fused_backward" in unavailable_reason(Settings(fused_backward=True, use_lora=False), gpu)
    outcome = train(max_train_steps=1, cuda_graphs=True)
    assert "cuda_graphs has no effect: it is not available on cpu." in outcome.messages
