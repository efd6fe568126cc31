"""The denoiser's call of its UNet: dtypes, conditioning arguments, extra channels."""

from __future__ import annotations

import pytest
import torch

from dreambooth.models.sd.text_encoding import PromptEmbedding
from dreambooth.models.denoiser import Conditioning, UNetDenoiser


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
    t = torch.tensor([1, 999])
    predicted = UNetDenoiser(unet).predict(latents, t, Conditioning(PromptEmbedding(torch.randn(2, 77, 8))))
    assert unet.sample.dtype == unet.kwargs["encoder_hidden_states"].dtype == dtype
    assert torch.equal(unet.t, t) and "added_cond_kwargs" not in unet.kwargs
    assert predicted.dtype == torch.float32 and torch.equal(predicted, latents.to(dtype).float())


def test_sdxl_gets_pooled_embeddings_in_the_same_dtype_and_exact_sizes():
    unet, sizes = RecordingUnet(torch.bfloat16), torch.tensor([[1023.0, 1, 2, 3, 1023, 1]])
    embedding = PromptEmbedding(torch.randn(1, 77, 8), torch.randn(1, 16))
    UNetDenoiser(unet).predict(torch.randn(1, 4, 8, 8), torch.tensor(5), Conditioning(embedding, sizes))
    added = unet.kwargs["added_cond_kwargs"]
    assert added["text_embeds"].dtype == torch.bfloat16
    assert torch.equal(added["time_ids"], sizes), "bfloat16 would round 1023 to 1024"


def test_extra_channels_follow_the_latents():
    unet, latents, extra = RecordingUnet(torch.float32), torch.randn(1, 4, 8, 8), torch.randn(1, 5, 8, 8)
    conditioning = Conditioning(PromptEmbedding(torch.randn(1, 77, 8)))
    predicted = UNetDenoiser(unet).predict(latents, torch.tensor(5), conditioning, extra)
    assert torch.equal(unet.sample, torch.cat([latents, extra], dim=1)) and predicted.shape == latents.shape
