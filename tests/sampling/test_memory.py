"""Images are generated in the memory that training needs: one component at a time, and the decoder in tiles."""

from __future__ import annotations

import contextlib

import pytest
import torch
from diffusers import AutoencoderKL

from dreambooth.checkpoints.modules import load_modules
from dreambooth.memory import placement
from dreambooth.models.latents import LatentCodec
from dreambooth.sampling import decoding, generate
from dreambooth.sampling.generate import SampleRequest, generate_images

REQUESTS = [SampleRequest("a toy", "bad", seed, 2, 5.0, 64, side) for seed, side in ((1, 64), (2, 64), (3, 128))]


def test_text_encoders_and_vae_are_on_the_device_only_while_they_are_used(mini, monkeypatch):
    """All prompts are encoded before the first prediction; each image is decoded after its last one."""
    modules, log = load_modules(mini.working), []
    names = {id(module): name for name, module in modules.parts.items()}
    names |= {id(part): f"vae.{name}" for name, part in modules.vae.named_children()}

    @contextlib.contextmanager
    def recorded(moved, device):
        listed = [names[id(module)] for module in moved]
        log.append(f"+{' '.join(listed)}")
        yield
        log.append(f"-{' '.join(listed)}")

    for owner in (generate, decoding):
        monkeypatch.setattr(owner, "on_device", recorded)

    @contextlib.contextmanager
    def with_device(moved, device):
        with recorded(moved, device):
            yield device

    monkeypatch.setattr(generate, "on_device_or_cpu", with_device)
    modules.denoiser.register_forward_hook(lambda *_: log.append("denoise"))
    modules.text_encoders["text_encoder"].register_forward_hook(lambda *_: log.append("encode"))
    images = list(generate_images(modules, REQUESTS, batch_size=2))
    assert [image.size for image in images] == [(64, 64), (64, 64), (64, 128)]
    decoder = "vae.decoder vae.post_quant_conv"  # not the encoder
    encoded = ["+text_encoder", *["encode"] * 4, "-text_encoder"]
    assert log == [*encoded, *["denoise", "denoise", f"+{decoder}", f"-{decoder}"] * 2]


def test_text_encoders_run_on_the_cpu_where_the_device_has_no_room(monkeypatch):
    module, device = torch.nn.Linear(4, 4).to(torch.bfloat16), torch.device("meta")
    weight = module.weight.clone()
    for free, expected in ((0, "cpu"), (10_000, "meta")):
        monkeypatch.setattr(placement, "free_bytes", lambda device, free=free: free)
        with contextlib.suppress(NotImplementedError), placement.on_device_or_cpu([module], device) as chosen:
            assert chosen.type == expected == module.weight.device.type
            assert module.weight.dtype == (torch.float32 if expected == "cpu" else torch.bfloat16)
        if expected == "cpu":
            assert torch.equal(module.weight, weight)


def test_quantized_modules_are_used_where_their_weights_are(monkeypatch):
    module = torch.nn.Linear(4, 4)
    module.register_buffer("scales", torch.ones(4, device="meta"))
    monkeypatch.setattr(placement, "free_bytes", lambda device: 0)
    with contextlib.suppress(NotImplementedError), placement.on_device_or_cpu([module], torch.device("meta")) as chosen:
        assert chosen.type == "meta" == module.weight.device.type


@pytest.fixture
def vae():
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    return AutoencoderKL(block_out_channels=[8, 16, 16], norm_num_groups=4, sample_size=64, **blocks).eval()


CODEC = LatentCodec(4, 4)
LATENTS = torch.randn(2, 4, 40, 24, generator=torch.Generator().manual_seed(1))


def _arrays(vae):
    return [torch.tensor(list(image.tobytes()), dtype=torch.float32) for image in _images(vae)]


def _images(vae):
    return list(decoding.decode_images(CODEC, vae, LATENTS))


def test_decoding_is_tiled_where_memory_is_short(vae, monkeypatch):
    monkeypatch.setattr(decoding, "_TILES", (64, 32))
    largest = []

    def forward(module, latents, *rest):
        largest.append(latents.shape[-2] * latents.shape[-1])
        return original(module, latents, *rest)

    original = type(vae.decoder).forward
    monkeypatch.setattr(type(vae.decoder), "forward", forward)
    whole = _arrays(vae)
    assert largest == [40 * 24] * 2
    weights = (*vae.decoder.parameters(), *vae.post_quant_conv.parameters())
    needed = decoding.decoding_bytes(vae, 160 * 96) + sum(parameter.nbytes for parameter in weights)
    for free, side, limit in ((needed - 1, 16, 12), (needed // 8, 8, 25)):
        largest.clear()
        monkeypatch.setattr(decoding, "free_bytes", lambda device, free=free: free)
        tiled = _arrays(vae)
        assert max(largest) == side * side and not vae.use_tiling and vae.dtype == torch.float32 and vae.encoder
        difference = [(one - other).abs().mean() for one, other in zip(whole, tiled, strict=True)]
        assert max(difference) < limit, "of 255, with random weights"
    monkeypatch.setattr(decoding, "free_bytes", lambda device: needed)
    assert all(torch.equal(one, other) for one, other in zip(whole, _arrays(vae), strict=True))


def test_activations_overwrite_their_inputs(mini, vae):
    """One feature map of the size of the image less; the pixels are the same, bit for bit."""
    loaded = load_modules(mini.working, denoiser=False, text_encoder=False).vae
    activations = [module for module in loaded.modules() if isinstance(module, torch.nn.SiLU)]
    assert len(activations) > 5 and all(module.inplace for module in activations)
    reference = AutoencoderKL(**loaded.config).eval()
    reference.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded.decode(LATENTS[:, :4])[0], reference.decode(LATENTS[:, :4])[0])
        pixels = torch.rand(1, 3, 64, 64)
        assert torch.equal(loaded.encode(pixels)[0].mean, reference.encode(pixels)[0].mean)


def test_tiles_that_overflow_in_half_precision_are_decoded_again(vae, monkeypatch):
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 0)
    dtypes = []

    def overflow(module, inputs, output):
        dtypes.append(output.dtype)
        return output * float("nan") if output.dtype == torch.bfloat16 else output

    vae.decoder.register_forward_hook(overflow)
    assert len(_images(vae)) == 2 and {*dtypes} == {torch.bfloat16, torch.float32}
