"""Tokens of a prompt: chunks of 75, emphasis as the WebUI parses it, strict parts."""

from __future__ import annotations

import pytest
import torch

from dreambooth.checkpoints.modules import load_family, load_modules, load_tokenizers
from dreambooth.models.sd.emphasis import apply_emphasis, parse_emphasis
from dreambooth.models.sd.tokens import PromptEncoding, count_tokens, tokenize
from dreambooth.settings import Folders, ModelFolder
from tests.mini_models import create

LONG = " ".join(["red", "star", "on", "blue"] * 25)  # 100 tokens


def _tokenizers(modules):
    return list(modules.tokenizers.values())


def _encoded(modules, prompts, prompt_encoding):
    conditioner = modules.text_conditioner(prompt_encoding)
    return conditioner.encode(conditioner.tokenize(prompts))


@pytest.fixture(scope="module")
def sd1(created):
    return load_modules(ModelFolder(Folders(created), "mini").working, denoiser=False, vae=False)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    model = create(Folders(tmp_path_factory.mktemp("sdxl")), "m", "SDXL", dtype=torch.float32)
    return load_modules(model.working, denoiser=False, vae=False)


@pytest.mark.parametrize("prompt", ["a zwx toy, number 1", "", LONG, 'café, "小猫" (soft) [x]', "star " * 75])
def test_one_chunk_equals_the_output_of_the_tokenizer(sd1, prompt):
    theirs = _tokenizers(sd1)[0](prompt, padding="max_length", truncation=True, max_length=77).input_ids
    tokens = tokenize(_tokenizers(sd1), [prompt], PromptEncoding())
    assert tokens.ids.tolist() == [[[theirs]]] and tokens.weights is None
    assert tokens.lengths == (min(77, count_tokens(_tokenizers(sd1)[0], prompt, PromptEncoding()) + 2),)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_long_prompts_are_encoded_chunk_by_chunk(family, request):
    modules = request.getfixturevalue(family)
    words = LONG.split()
    prompt_encoding = PromptEncoding(max_tokens=150)
    assert count_tokens(_tokenizers(modules)[0], LONG, prompt_encoding) == 100
    whole = _encoded(modules, [LONG, "a star"], prompt_encoding)
    assert whole["states"].shape[:2] == (2, 154)
    parts = [_encoded(modules, [part], PromptEncoding())
             for part in (" ".join(words[:75]), " ".join(words[75:]), "a star", "")]  # fmt: skip
    assert torch.allclose(whole["states"][:1], torch.cat([parts[0]["states"], parts[1]["states"]], dim=1), atol=1e-5)
    assert torch.allclose(whole["states"][1:], torch.cat([parts[2]["states"], parts[3]["states"]], dim=1), atol=1e-5)
    if family == "sdxl":
        assert torch.allclose(whole["pooled"], torch.cat([parts[0]["pooled"], parts[2]["pooled"]]), atol=1e-5)
    short = _encoded(modules, ["a star"], prompt_encoding)
    assert short["states"].shape[1] == 77, "only as many chunks as needed"


def test_prompts_are_truncated_to_the_limit(sd1):
    read = [tokenize(_tokenizers(sd1), [LONG + tail], PromptEncoding(max_tokens=75)).ids for tail in ("", " a cat")]
    assert torch.equal(*read)
    read = [tokenize(_tokenizers(sd1), [LONG + tail], PromptEncoding(max_tokens=150)) for tail in ("", " a cat")]
    assert not torch.equal(read[0].ids, read[1].ids) and [tokens.lengths for tokens in read] == [(104,), (106,)]


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        # those of the WebUI's own documentation
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
             ("sky", 1.4641), (".", 1.1)],
        ),
        # and what people write
        ("[dim]", [("dim", 1 / 1.1)]),
        (r"yua_\(idol\), (smile:1.2)", [("yua_(idol), ", 1.0), ("smile", 1.2)]),
        ("ratio 4:3)", [("ratio 4:3)", 1.0)]),
        (r"a\\b \c", [(r"a\b c", 1.0)]),
        ("", [("", 1.0)]),
    ],
)  # fmt: skip
def test_brackets(prompt, parts):
    found = parse_emphasis(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


def test_escaped_brackets_are_literal_with_and_without_weights(sd1):
    wanted = _tokenizers(sd1)[0]("yua_(idol)").input_ids[1:-1]
    for weighted in (False, True):
        tokens = tokenize(_tokenizers(sd1), [r"yua_\(idol\)"], PromptEncoding(weighted=weighted))
        assert tokens.ids[0, 0, 0, 1 : len(wanted) + 1].tolist() == wanted and tokens.weights is None


def test_weights_multiply_their_tokens_and_leave_the_mean(sd1):
    prompt_encoding = PromptEncoding(weighted=True)
    plain, weighed = (_encoded(sd1, [p], prompt_encoding)["states"] for p in ("a star", "a (star:1.5)"))
    assert weighed.mean() == pytest.approx(plain.mean().item(), rel=1e-4)
    ratio = (weighed / plain).median(dim=2).values[0]
    assert ratio[2] / ratio[1] == pytest.approx(1.5, rel=1e-4)
    assert ratio[3:] == pytest.approx(ratio[1].item(), rel=1e-4), "end and filling count once"
    alone = _encoded(sd1, ["a (star:1.5)", "(a) cat"], prompt_encoding)["states"][:1]
    assert torch.allclose(alone, weighed, atol=1e-5), "independent of the other prompts of the batch"
    assert not torch.equal(
        tokenize(_tokenizers(sd1), ["a (star:1.5)"], PromptEncoding()).ids,
        tokenize(_tokenizers(sd1), ["a star"], PromptEncoding()).ids,
    )


def test_emphasis_in_half_precision_keeps_the_dtype():
    states = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert torch.equal(apply_emphasis(states, torch.ones(1, 77)), states)


def test_strict_parts_have_their_own_start_and_end_tokens(sd1):
    tokens = tokenize(_tokenizers(sd1), ["a star, blue; sky."], PromptEncoding(strict=True))
    names = _tokenizers(sd1)[0].convert_ids_to_tokens(tokens.ids[0, 0, 0, : tokens.lengths[0]].tolist())
    start, end = "<|startoftext|>", "<|endoftext|>"
    between = [end, ",</w>", start]
    assert names == [start, "a</w>", "star</w>", *between, "blue</w>", *between, "sky</w>", end]
    plain = "a v1.5 star"
    assert torch.equal(tokenize(_tokenizers(sd1), [plain], PromptEncoding(strict=True)).ids,
                       tokenize(_tokenizers(sd1), [plain], PromptEncoding()).ids)  # fmt: skip


def test_tokenizers_load_without_the_text_encoders(created):
    working = ModelFolder(Folders(created), "mini").working
    family = load_family(working)
    assert family.text_conditioner({}, load_tokenizers(working, family), PromptEncoding()).count("a red star") == 3
