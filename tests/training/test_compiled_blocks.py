"""torch.compile of the repeated blocks: same losses, same files, and eager training where it fails."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from dreambooth.memory.offload import repeated_blocks
from dreambooth.settings import Settings
from dreambooth.training import compiled_blocks
from dreambooth.training.compiled_blocks import MINIMUM, is_compiled, unavailable_reason

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
CPU, GPU = torch.device("cpu"), torch.device("cuda")
RUN = {
    "gradient_checkpointing": True, "mixed_precision": "bf16", "use_lora_extended": True, "train_batch_size": 1,
    "max_train_steps": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual and a transformer block are compiled, since each kind takes seconds."""

    def of_each_class(module: torch.nn.Module) -> list[torch.nn.Module]:
        return [*{type(block): block for block in repeated_blocks(module)}.values()]

    monkeypatch.setattr(compiled_blocks, "repeated_blocks", of_each_class)


needs_compile = pytest.mark.skipif(VERSION < MINIMUM, reason="an older torch")


@needs_compile
@pytest.mark.nightly(minutes=1)
def test_compiled_blocks_train_as_they_are(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as torch.compile does, without the time of generating code.

    In bf16, where each step makes new copies of the adapters' parameters, which must not be compiled again.
    """
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    config: Any = dynamo.config
    monkeypatch.setattr(compiled_blocks, "BACKEND", "aot_eager")
    before, folders = config.recompile_limit, [os.environ.get(name) for name in compiled_blocks._VARIABLES]
    during = []
    counters.clear()
    eager = train(**RUN)
    assert not counters["stats"]

    def observe(event: dict[str, Any], _: Any) -> None:
        if event["kind"] == "step":
            during.append((config.recompile_limit, counters["stats"]["unique_graphs"]))

    compiled = train(**RUN, torch_compile=True, sanity_prompt="a star", on=observe)
    assert [limit for limit, _ in during] == [256] * 3 and during[0][1] > 0
    assert counters["stats"]["unique_graphs"] == during[0][1], "neither later steps nor the preview compile anything"
    assert not counters["graph_break"] and "failed" not in compiled.messages
    assert compiled.losses == pytest.approx(eager.losses, abs=1e-5)
    weights = eager.weights()
    assert compiled.weights().keys() == weights.keys()
    for key, value in compiled.weights().items():
        torch.testing.assert_close(value, weights[key], atol=1e-4, rtol=0)
    assert config.recompile_limit == before
    assert [os.environ.get(name) for name in compiled_blocks._VARIABLES] == folders


@needs_compile
def test_training_goes_on_without_it_where_compiling_fails(train, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no kernel for this card")

    monkeypatch.setattr(compiled_blocks, "BACKEND", backend)
    eager, compiled = train(**RUN), train(**RUN, torch_compile=True)
    texts = [event["text"] for event in compiled.of("message") if event["level"] == "warning"]
    (line,) = [text for text in texts if "torch.compile failed in step 1, so training goes on without it: " in text]
    assert "no kernel for this card" in line and "\n" not in line
    assert compiled.losses == eager.losses and compiled.digest() == eager.digest()


@needs_compile
@pytest.mark.nightly(minutes=3)
def test_generated_code_computes_the_same() -> None:
    from diffusers.models.attention import BasicTransformerBlock

    blocks = torch.nn.ModuleList([BasicTransformerBlock(8, 2, 4, cross_attention_dim=8)])
    model = torch.nn.ModuleDict({"blocks": blocks})
    x = torch.randn(2, 5, 8, requires_grad=True)

    def results() -> list[torch.Tensor]:
        output = blocks[0](x)
        return [output, *torch.autograd.grad(output.square().sum(), [x, *blocks.parameters()], allow_unused=True)]

    expected = results()
    with compiled_blocks.compiled_blocks(model):
        assert is_compiled(model)
        for found, wanted in zip(results(), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    assert not is_compiled(model)


def test_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_blocks, "_VERSION", (2, 5))
    assert "PyTorch 2.6" in unavailable_reason(Settings(), CPU)
    monkeypatch.setattr(compiled_blocks, "_VERSION", (2, 7))
    monkeypatch.setattr(compiled_blocks.importlib.util, "find_spec", lambda name: None)
    assert "Triton" in unavailable_reason(Settings(), GPU)
    monkeypatch.setattr(compiled_blocks.importlib.util, "find_spec", lambda name: name)
    assert unavailable_reason(Settings(), GPU) == ""
    assert "mps" in unavailable_reason(Settings(), torch.device("mps"))
    monkeypatch.setattr(compiled_blocks.shutil, "which", lambda name: None)
    assert "C++ compiler" in unavailable_reason(Settings(), CPU)
    fused = Settings(fused_backward=True, lora_unet_dropout=0.1)
    assert "fused_backward" in unavailable_reason(fused, GPU) and "dropout" not in unavailable_reason(fused, GPU)


def test_the_check_says_why_it_has_no_effect(train, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = train(max_train_steps=1, torch_compile=True, lora_unet_dropout=0.1)
    assert "torch_compile has no effect: it can't be combined with lora_unet_dropout." in outcome.messages
    assert len(outcome.losses) == 1
