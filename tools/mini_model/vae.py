"""The VAEs: AutoencoderKL of SD 1.x or FLUX.1 with few channels; linear initialization, training, whitening.

Images are float tensors [batch, 3, height, width] in -1..1; latents are [batch, 4 or 16, height / 8, width / 8].
"""

import math
import time
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import parallel
from .render import DEMO_SUBJECT, clutter, random_sample, render_subject

NORM_GROUPS = 8
CHANNELS = (16, 32, 64, 64)
SD_VAE: dict[str, Any] = {"latent_channels": 4, "scaling_factor": 0.18215}
LOG_VARIANCE = -4.0  # at the start: almost no sampling noise
FLUX_VAE: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def new_vae(kind: dict[str, Any] = SD_VAE) -> Any:
    """Topology of SD 1.x and FLUX.1: 4 levels, 2 layers per block. `kind`: SD_VAE or FLUX_VAE."""
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": CHANNELS,
    }
    return AutoencoderKL(
        **blocks,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        norm_num_groups=NORM_GROUPS,
        sample_size=128,
        **kind,
    )


def to_tensor(images):
    """uint8 [n, height, width, 3] to float [n, 3, height, width] in -1..1."""
    array = np.array(images)  # a copy: memory-mapped images are read-only
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def to_images(tensor):
    """Inverse of `to_tensor`."""
    return ((tensor.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def linear_initialization(vae, residual=0.25):
    """Initialize the VAE as a nearly linear autoencoder of the mean colors of 8x8 blocks.

    Channels 0..5 carry +RGB and -RGB (silu(x) - silu(-x) = x); residual branches are scaled down. Training then starts
    at about 14 dB.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for block in [*encoder.down_blocks, *decoder.up_blocks]:
        for resnet in block.resnets:
            resnet.conv2.weight.mul_(residual)
            if resnet.conv_shortcut is not None:
                _carry_pairs(resnet.conv_shortcut, slice(0, 1), 1.0)
    for middle in (encoder.mid_block, decoder.mid_block):
        for resnet in middle.resnets:
            resnet.conv2.weight.mul_(residual)
        for attention in middle.attentions:
            attention.to_out[0].weight.mul_(residual)
    for block in encoder.down_blocks:
        for downsampler in block.downsamplers or []:
            _carry_pairs(downsampler.conv, slice(0, 2), 0.25)
    for block in decoder.up_blocks:
        for upsampler in block.upsamplers or []:
            _carry_pairs(upsampler.conv, slice(1, 2), 1.0)
    _split_into_pairs(encoder.conv_in)
    _split_into_pairs(decoder.conv_in)
    encoder.conv_out.weight[:3].zero_()
    encoder.conv_out.bias.zero_()
    decoder.conv_out.weight.mul_(0.1)
    decoder.conv_out.weight[:, :6].zero_()
    decoder.conv_out.bias.zero_()
    for channel in range(3):
        for sign, column in ((1.0, channel), (-1.0, channel + 3)):
            encoder.conv_out.weight[channel, column, 1, 1] = sign
            decoder.conv_out.weight[channel, column, 1, 1] = 0.6 * sign
    count = vae.config.latent_channels
    for conv in (vae.quant_conv, vae.post_quant_conv):
        if conv is not None:
            conv.weight.zero_()
            conv.bias.zero_()
            for channel in range(count):
                conv.weight[channel, channel] = 1.0
    last = vae.quant_conv or encoder.conv_out
    last.weight[count:].zero_()
    last.bias[count:] = LOG_VARIANCE


def _carry_pairs(conv, taps, value):
    """Make a convolution pass on channels 0..5, averaged over the kernel's `taps`."""
    conv.weight[:6].zero_()
    conv.bias[:6].zero_()
    for channel in range(6):
        conv.weight[channel, channel, taps, taps] = value


def _split_into_pairs(conv):
    """Make a convolution map RGB to +RGB (channels 0..2) and -RGB (3..5)."""
    conv.weight[:6].zero_()
    conv.bias[:6].zero_()
    for channel in range(3):
        conv.weight[channel, channel, 1, 1] = 1.0
        conv.weight[channel + 3, channel, 1, 1] = -1.0


def random_crops(images, size):
    """The same random square crop of all images of a batch, sometimes after downscaling."""
    if np.random.rand() < 0.3:
        images = torch.nn.functional.interpolate(images, size=96, mode="bilinear", antialias=True)
    top, left = np.random.randint(0, images.shape[-1] - size + 1, 2)
    return images[:, :, top : top + size, left : left + size].contiguous()


def reconstruction_loss(target, output, posterior):
    """L1 + L2 + L1 of the edges + a small KL term; and the L1 alone, for the log."""
    l1 = (output - target).abs().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(_edges(output), _edges(target), strict=True))
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    return l1 + (output - target).pow(2).mean() + edges + 1e-4 * kl, l1.item()


def _edges(tensor):
    return tensor[..., 1:, :] - tensor[..., :-1, :], tensor[..., 1:] - tensor[..., :-1]


def train_vae(images, clutter_images, seconds, out, kind=SD_VAE, learning_rate=2e-3):
    """Train for `seconds` of wall time, whiten, and save a state dict to `out`. Runs in each worker.

    `kind`: SD_VAE or FLUX_VAE.
    """
    parallel.join()
    torch.manual_seed(0)
    np.random.seed(parallel.RANK)
    vae = new_vae(kind)
    linear_initialization(vae)
    parameters = list(vae.parameters())
    parallel.broadcast_parameters(parameters)
    torch.manual_seed(parallel.RANK + 1)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = parallel.MovingAverage(parameters, 0.995)
    start, progress, step, l1 = time.time(), 0.0, 0, 0.0
    pads_latents = vae.post_quant_conv is None  # with zeros: whitening in between lets the decoder adapt to that
    while progress < 1:
        rate = learning_rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        # A convolutional VAE learns as much per pixel from crops, with shorter steps. Full images at the end.
        crops = progress < 0.6
        if pads_latents and not crops:
            whiten(vae.eval(), images)
            vae.train()
            parallel.broadcast_parameters(parameters)
            average, pads_latents = parallel.MovingAverage(parameters, 0.995), False
        count = 4 if crops else 2
        batch = to_tensor(
            [
                source[np.random.randint(len(source))]
                for source in (images if np.random.rand() < 0.5 else clutter_images for _ in range(count))
            ]
        )
        batch = random_crops(batch, 64) if crops else batch
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            output = vae.decode(posterior.sample()).sample
        loss, new_l1 = reconstruction_loss(batch, output.float(), posterior)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        progress = parallel.average_gradients(parameters, (time.time() - start) / seconds)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update()
        step, l1 = step + 1, 0.98 * l1 + 0.02 * new_l1
        if parallel.RANK == 0 and step % 100 == 0:
            print(f"vae step {step}, {time.time() - start:.0f} s, L1 {l1:.4f}", flush=True)
    if parallel.RANK == 0:
        average.swap()
        whiten(vae, images)
        torch.save(vae.state_dict(), out)
        print("vae", vae_report(vae), flush=True)


@torch.no_grad()
def whiten(vae, images, count=768):
    """Rescale the layers around the latents so that scaled latents have mean 0 and standard deviation 1.

    Each of SD's 4 channels has these. Of 16 channels, most are details: the standard deviations of channels are only
    made more similar (their square roots are taken), so that colors and shapes keep more weight.
    """
    vae.eval()
    latents = encode(vae, images[:count], is_scaled=False)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n, shift = vae.config.latent_channels, vae.config.shift_factor or 0.0
    wanted = torch.ones_like(deviation) if vae.quant_conv else (deviation / deviation.mean()).sqrt()
    scale = wanted / deviation / vae.config.scaling_factor
    last, first = vae.quant_conv or vae.encoder.conv_out, vae.post_quant_conv or vae.decoder.conv_in
    last.weight[:n] *= scale[:, None, None, None]
    last.bias[:n].copy_((last.bias[:n] - mean) * scale + shift)
    last.bias[n:] += 2 * scale.log()
    first.bias += first.weight.sum((2, 3)) @ (mean - shift / scale)
    first.weight.div_(scale[None, :, None, None])


@torch.no_grad()
def encode(vae, images, is_scaled=True, batch=16):
    """Latents (posterior means, scaled and shifted) of uint8 images, float32."""
    shift, scale = (vae.config.shift_factor or 0.0, vae.config.scaling_factor) if is_scaled else (0.0, 1.0)
    return torch.cat(
        [
            (vae.encode(to_tensor(images[i : i + batch])).latent_dist.mean.float() - shift) * scale
            for i in range(0, len(images), batch)
        ]
    )


@torch.no_grad()
def decode(vae, latents, batch=16):
    """uint8 images of scaled and shifted latents."""
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    return np.concatenate([to_images(vae.decode(part / scale + shift).sample.float()) for part in latents.split(batch)])


def vae_report(vae, count=12):
    """PSNR in dB of new images of three kinds."""
    rng = np.random.default_rng(5)
    sets = {
        "captioned": [random_sample(rng).image for _ in range(count)],
        "clutter": [clutter(rng) for _ in range(count)],
        "subject": [render_subject(DEMO_SUBJECT, rng) for _ in range(count)],
    }
    report = {}
    for name, images in sets.items():
        error = (decode(vae, encode(vae, images)).astype(float) - np.stack(images)) ** 2
        report[name] = round(float(np.mean(10 * np.log10(255**2 / error.mean((1, 2, 3))))), 2)
    return report
