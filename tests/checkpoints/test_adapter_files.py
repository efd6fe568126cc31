"""Adapter files of other programs: every naming scheme and kind has the effect that it has there."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from dreambooth.checkpoints.adapters import factorization, make_adapter
from dreambooth.checkpoints.lora import apply_lora, match_adapters
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.errors import UserError
from dreambooth.models.layout import TensorRef

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
FC1 = "text_model.encoder.layers.0.mlp.fc1"
KOHYA = ("lora_down.weight", "lora_up.weight")
NAMINGS = {
    "kohya": (f"lora_unet_{QUERY}".replace(".", "_"), KOHYA, ("unet", QUERY)),
    "kohya, original names": ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q", KOHYA, ("unet", QUERY)),
    "kohya, the only text encoder numbered": (f"lora_te1_{FC1}".replace(".", "_"), KOHYA, ("text_encoder", FC1)),
    "LyCORIS' wrapper": (f"lycoris_{QUERY}".replace(".", "_"), KOHYA, ("unet", QUERY)),
    "peft": (f"unet.{QUERY}", ("lora_A.weight", "lora_B.weight"), ("unet", QUERY)),
    "peft, text": (f"text_encoder.{FC1}", ("lora_A.weight", "lora_B.weight"), ("text_encoder", FC1)),
    "peft, text of transformers 5": (
        "text_encoder.encoder.layers.0.mlp.fc1", ("lora_A.weight", "lora_B.weight"), ("text_encoder", FC1)
    ),
    "diffusers": (f"unet.{QUERY}", ("lora.down.weight", "lora.up.weight"), ("unet", QUERY)),
    "diffusers, text": (
        f"text_encoder.{FC1}", ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"), ("text_encoder", FC1)
    ),
    "OneTrainer": ("unet.middle_block.1.transformer_blocks.0.attn1.to_q", KOHYA, ("unet", QUERY)),
    "OneTrainer, text": (f"clip_l.{FC1}", KOHYA, ("text_encoder", FC1)),
    "ComfyUI": ("diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q", KOHYA, ("unet", QUERY)),
    "ComfyUI, text": (f"text_encoders.clip_l.transformer.{FC1}", KOHYA, ("text_encoder", FC1)),
    "peft's own file": (f"base_model.model.{QUERY}", ("lora_A.weight", "lora_B.weight"), ("unet", QUERY)),
    "peft's own file, text": (f"base_model.model.{FC1}", ("lora_A.weight", "lora_B.weight"), ("text_encoder", FC1)),
    "peft, a named adapter": (f"unet.{QUERY}", ("lora_A.my_style.weight", "lora_B.my_style.weight"), ("unet", QUERY)),
    "torch.compile": (f"_orig_mod.{QUERY}", KOHYA, ("unet", QUERY)),
    "wrapped text encoder": (f"lora_te_wrapped_transformer_{FC1}".replace(".", "_"), KOHYA, ("text_encoder", FC1)),
    "attention processors": (
        f"{QUERY.removesuffix('.to_q')}.processor", ("to_q_lora.down.weight", "to_q_lora.up.weight"), ("unet", QUERY)
    ),
    "attention processors, out": (
        f"unet.{OUT.removesuffix('.to_out.0')}.processor",
        ("to_out_lora.down.weight", "to_out_lora.up.weight"),
        ("unet", OUT),
    ),
}  # fmt: skip


@pytest.fixture
def modules(mini):
    return load_modules(mini.working)


@pytest.fixture
def matched(modules):
    """The weights that the adapters of a file are matched to."""
    shapes = {
        TensorRef(component, name): shape
        for component in ("unet", "text_encoder")
        for name, shape in modules.family.component(component).disk_shapes(modules.parts[component]).items()
    }
    return lambda path: match_adapters(read_lora(path), shapes, modules.layout)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_every_naming_scheme_matches_its_module(modules, matched, tmp_path, naming, pickled):
    module, (down, up), ref = NAMINGS[naming]
    base = dict(modules.parts[ref[0]].named_modules())
    weight = (base.get(ref[1]) or base[ref[1].removeprefix("text_model.")]).weight
    tensors = {f"{module}.{down}": torch.randn(2, weight.shape[1]), f"{module}.{up}": torch.randn(weight.shape[0], 2)}
    path = tmp_path / "x"
    torch.save(tensors, path) if pickled else safetensors.torch.save_file(tensors, path)
    [(found, adapter)] = matched(path).items()
    assert found == TensorRef(ref[0], f"{ref[1]}.weight")
    assert torch.allclose(adapter.delta(weight), tensors[f"{module}.{up}"] @ tensors[f"{module}.{down}"], atol=1e-4)


def _cloneofsimos(modules, feed_forward_last: bool) -> tuple[dict[str, torch.Tensor], dict[TensorRef, torch.Tensor]]:
    """A file in the format of cloneofsimo/lora as its code wrote it, and the deltas of the weights.

    Its code visited the modules of the model of its time in the order of their creation.
    """
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    first, second = [f"attn1.{part}" for part in attention], [f"attn2.{part}" for part in attention]
    in_block = [*first, *second, "ff.net.0.proj"] if feed_forward_last else [*first, "ff.net.0.proj", *second]
    names = {"unet": [], "text_encoder": []}
    for block in ("down_blocks", "up_blocks", "mid_block"):
        for name, module in getattr(modules.denoiser, block).named_modules():
            if type(module).__name__ == "BasicTransformerBlock":
                names["unet"] += [f"{block}.{name}.{part}" for part in in_block]
    for name, module in modules.parts["text_encoder"].named_modules():
        if type(module).__name__ == "CLIPAttention":
            names["text_encoder"] += [f"{name}.{part}_proj" for part in ("k", "v", "q", "out")]
    tensors, deltas, generator = {}, {}, torch.Generator().manual_seed(0)
    for component, listed in names.items():
        for number, name in enumerate(listed):
            rows, columns = modules.parts[component].get_submodule(name).weight.shape
            up, down = (torch.randn(size, generator=generator) for size in ((rows, 2), (2, columns)))
            tensors |= {f"{component}:{number}:up": up, f"{component}:{number}:down": down}
            on_disk = name if component == "unet" or name.startswith("text_model.") else f"text_model.{name}"
            deltas[TensorRef(component, f"{on_disk}.weight")] = up @ down
    return tensors, deltas


@pytest.mark.parametrize("form", ["feed-forward before", "feed-forward after", "list"])
def test_modules_without_names_are_found_by_their_order(modules, matched, tmp_path, form):
    tensors, deltas = _cloneofsimos(modules, feed_forward_last=form == "feed-forward after")
    path = tmp_path / "x"
    if form == "list":  # one file for each component
        torch.save([tensor for key, tensor in tensors.items() if key.startswith("unet:")], path)
        deltas = {ref: delta for ref, delta in deltas.items() if ref.component == "unet"}
    else:
        safetensors.torch.save_file(tensors | {"<s1>": torch.ones(32)}, path, {"unet": '["CrossAttention"]'})
    found = matched(path)
    assert found.keys() == deltas.keys()
    assert all(torch.allclose(found[ref].delta(torch.zeros_like(deltas[ref])), deltas[ref], atol=1e-4) for ref in found)


def test_an_unknown_order_of_modules_is_refused(modules, tmp_path):
    tensors, _ = _cloneofsimos(modules, feed_forward_last=True)
    del tensors["unet:7:up"]
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors is a LoRA in the format of cloneofsimo.* have no names"):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("use_rslora", [False, True], ids=["plain", "rslora"])
def test_a_file_saved_by_diffusers_gives_the_deltas_of_peft(modules, mini, tmp_path, use_rslora):
    """Rank and alpha are only in the metadata; one module has its own alpha."""
    peft = pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline

    config = peft.LoraConfig(
        r=4, lora_alpha=3, target_modules=["to_q", "to_k", "proj_in"], alpha_pattern={"attn2.to_k": 9},
        use_rslora=use_rslora, init_lora_weights="gaussian",
    )  # fmt: skip
    theirs = load_modules(mini.working).denoiser
    theirs.add_adapter(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(theirs),
        unet_lora_adapter_metadata=theirs.peft_config["default"].to_dict(),
    )
    [path] = tmp_path.glob("*.safetensors")
    assert apply_lora(modules, read_lora(path)) == sum(1 for name, _ in theirs.named_parameters() if "lora_B" in name)
    theirs.fuse_lora()
    for name, module in modules.denoiser.named_modules():
        if name.endswith(("to_q", "to_k", "proj_in")):
            merged = theirs.get_submodule(name).base_layer.weight
            assert torch.allclose(module.weight, merged, atol=1e-5), name


def test_alpha_and_scale_scale_as_in_a1111():
    down, up = torch.randn(4, 6), torch.randn(5, 4)
    parts = {"lora_down.weight": down, "lora_up.weight": up}
    weight = torch.zeros(5, 6)
    for scalars, factor in (
        ({}, 1),
        ({"alpha": 2}, 0.5),
        ({"alpha": 0}, 0),
        ({"alpha": 2, "scale": 3}, 3),
    ):
        adapter = make_adapter(parts | {name: torch.tensor(float(value)) for name, value in scalars.items()})
        assert torch.allclose(adapter.delta(weight), factor * up @ down, atol=1e-5)


def test_tucker_decomposition_equals_three_convolutions():
    """Tucker forms of LoRA and LoHa: the delta equals the three convolutions in sequence."""
    x, weight = torch.randn(1, 6, 9, 9), torch.zeros(8, 6, 3, 3)
    down, core, up = torch.randn(3, 6, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(8, 3, 1, 1)
    wanted = F.conv2d(F.conv2d(F.conv2d(x, down), core), up)
    lora = make_adapter({"lora_down.weight": down, "lora_mid.weight": core, "lora_up.weight": up})
    assert torch.allclose(F.conv2d(x, lora.delta(weight)), wanted, atol=1e-4)
    half = {"a": up[:, :, 0, 0].T.contiguous(), "b": down[:, :, 0, 0]}
    loha = make_adapter({f"hada_w{n}_{x}": half[x] for n in "12" for x in "ab"} | {"hada_t1": core, "hada_t2": core})
    assert torch.allclose(loha.delta(weight), lora.delta(weight) ** 2, atol=1e-4)
    lokr = make_adapter({"lokr_w1": torch.eye(1), "lokr_w2_a": half["a"], "lokr_w2_b": half["b"], "lokr_t2": core})
    assert torch.allclose(lokr.delta(weight), lora.delta(weight), atol=1e-4)


def test_the_kronecker_product_of_a_convolution():
    w1, w2 = torch.randn(2, 3), torch.randn(4, 5, 3, 3)
    change = make_adapter({"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(7.0)}).delta(torch.zeros(8, 15, 3, 3))
    assert torch.allclose(change, torch.kron(w1[:, :, None, None], w2))


@pytest.mark.parametrize("axis", [0, 1], ids=["outputs", "inputs"])
def test_dora_rescales_rows_or_columns_to_its_magnitudes(axis):
    weight, lengths = torch.randn(5, 6, 3, 3), torch.rand(5 if axis == 0 else 6) + 1
    shape = (5, 1, 1, 1) if axis == 0 else (1, 6, 1, 1)
    parts = {"lora_down.weight": torch.randn(2, 6, 3, 3), "lora_up.weight": torch.randn(5, 2, 1, 1)}
    changed = make_adapter(parts | {"dora_scale": lengths.reshape(shape)}).apply(weight)
    rows, directions = (tensor.transpose(0, axis).flatten(1) for tensor in (changed, make_adapter(parts).apply(weight)))
    assert torch.allclose(rows.norm(dim=1), lengths, atol=1e-4)
    assert torch.allclose(F.cosine_similarity(rows, directions), torch.ones(len(lengths)))


def test_differences_change_weights_and_biases(modules, tmp_path):
    norm, conv = modules.denoiser.mid_block.resnets[0].norm1, modules.denoiser.mid_block.resnets[0].conv1
    before = [tensor.clone() for tensor in (norm.weight, norm.bias, conv.weight, conv.bias)]
    changes = [torch.randn_like(tensor) for tensor in before]
    names = ("norm1.w_norm", "norm1.b_norm", "conv1.diff", "conv1.diff_b")
    path = tmp_path / "x.safetensors"
    tensors = {f"lora_unet_mid_block_resnets_0_{name}": change for name, change in zip(names, changes, strict=True)}
    safetensors.torch.save_file(tensors, path)
    assert apply_lora(modules, read_lora(path), 0.5) == 4
    for tensor, old, change in zip((norm.weight, norm.bias, conv.weight, conv.bias), before, changes, strict=True):
        assert torch.allclose(tensor, old + 0.5 * change, atol=1e-6)


@pytest.mark.parametrize("on_input", [0, 1])
def test_ia3_scales_rows_or_columns(on_input):
    weight, factors = torch.randn(4, 4), torch.randn(4)
    changed = make_adapter({"weight": factors, "on_input": torch.tensor(on_input)}).apply(weight)
    assert torch.allclose(changed, weight * (1 + (factors if on_input else factors[:, None])))


def test_lokr_splits_sizes_as_lycoris_does():
    """The examples in LyCORIS' own documentation."""
    table = {127: [(1, 127)] * 3, 128: [(8, 16), (2, 64), (8, 16)], 250: [(10, 25), (2, 125), (5, 50)],
             360: [(18, 20), (2, 180), (8, 45)], 1024: [(32, 32), (2, 512), (8, 128)]}  # fmt: skip
    for size, splits in table.items():
        assert [factorization(size, factor) for factor in (0, 2, 8)] == splits
