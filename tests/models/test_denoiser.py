"""The denoiser's call of its UNet: dtypes, conditioning arguments, extra channels."""

from __future__ import annotations

import pytest
import torch

from dreambooth.models.conditioning import Conditioning, ImageSize
from dreambooth.models.registry import FAMILIES
from dreambooth.models.sd.unet_denoiser import UNetDenoiser


class RecordingUnet(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=dtype))

    def forward(self, sample, t, **kwargs):
        self.sample, self.t, self.kwargs = sample, t, kwargs
        return (sample[:, :4] * self.weight,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_have_the_dtype_of_the_weights_and_the_output_is_float32(dtype):
    unet, latents = RecordingUnet(dtype), torch.randn(2, 4, 8, 8)
    t, conditioning = torch.tensor([1, 999]), Conditioning({"states": torch.randn(2, 77, 8)})
    predicted = UNetDenoiser(unet).predict(latents, t, conditioning)
    assert unet.sample.dtype == unet.kwargs["encoder_hidden_states"].dtype == dtype
    assert torch.equal(unet.t, t) and "added_cond_kwargs" not in unet.kwargs
    assert predicted.dtype == torch.float32 and torch.equal(predicted, latents.to(dtype).float())


def test_sdxl_gets_pooled_embeddings_in_the_same_dtype_and_exact_sizes():
    unet, size = RecordingUnet(torch.bfloat16), ImageSize((1, 1023), (2, 3), (5, 1021))
    denoiser = UNetDenoiser(unet)
    conditioning = denoiser.prepare(
        Conditioning({"states": torch.randn(1, 77, 8), "pooled": torch.randn(1, 16)}), [size]
    )
    assert conditioning["states"].dtype == torch.bfloat16, "cast once for several predictions"
    denoiser.predict(torch.randn(1, 4, 8, 8), torch.tensor(5), conditioning)
    added = unet.kwargs["added_cond_kwargs"]
    assert added["text_embeds"].dtype == torch.bfloat16
    assert added["time_ids"].tolist() == [[1023, 1, 3, 2, 1021, 5]], "bfloat16 would round 1023 to 1024"


def test_extra_channels_follow_the_latents():
    unet, latents, extra = RecordingUnet(torch.float32), torch.randn(1, 4, 8, 8), torch.randn(1, 5, 8, 8)
    conditioning = Conditioning({"states": torch.randn(1, 77, 8)})
    predicted = UNetDenoiser(unet).predict(latents, torch.tensor(5), conditioning, extra)
    assert torch.equal(unet.sample, torch.cat([latents, extra], dim=1)) and predicted.shape == latents.shape
    assert {family.extra_channels({"in_channels": n}) for n in (9, 4) for family in FAMILIES} == {5, 0}
