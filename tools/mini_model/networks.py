"""Text encoder and UNet: classes and topology of Stable Diffusion 1.x with few channels."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .clip_tokenizer import CONTEXT, END, START, VOCABULARY

TEXT_WIDTH = 40
TEXT_HEADS = 4
TEXT_LAYERS = 3
UNET_CHANNELS = (32, 64, 80, 80)
UNET_HEADS = 8
NORM_GROUPS = 8
SAMPLE_SIZE = 16
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def new_text_encoder():
    """CLIP's text model, width 40."""
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=CONTEXT,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=1,
            # the fused kernel is slow for narrow heads
            attn_implementation="eager",  # pyright: ignore[reportCallIssue] (of the base class)
        )
    )
    nn.init.normal_(encoder.get_input_embeddings().get_parameter("weight"), std=0.1)
    return encoder


def new_unet():
    """SD 1.x's UNet (4 levels, 2 layers per block, 686 tensors) with 32 to 80 channels."""
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        block_out_channels=UNET_CHANNELS,
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=UNET_HEADS,
        norm_num_groups=NORM_GROUPS,
    )


def noise_schedule():
    """The training noise schedule of SD 1.x."""
    return DDPMScheduler(**NOISE, prediction_type="epsilon", clip_sample=False)


class CaptionTokenEmbedding(nn.Module):
    """A token embedding that trains only the rows of tokens that occur in captions.

    All other rows keep their random initialization, so that unused tokens can name new subjects.
    """

    row_of: torch.Tensor

    def __init__(self, embedding, trained_tokens):
        super().__init__()
        self.table = embedding.weight.requires_grad_(False)  # [vocabulary, width]
        self.trained_tokens = trained_tokens
        self.rows = nn.Parameter(self.table[trained_tokens].clone())  # [trained tokens, width]
        self.register_buffer("row_of", torch.full((len(self.table),), -1), persistent=False)
        self.row_of[trained_tokens] = torch.arange(len(trained_tokens))

    @property
    def weight(self):
        """The whole table; transformers reads its dtype."""
        return self.table

    def forward(self, ids):
        row = self.row_of[ids]
        return torch.where((row >= 0)[..., None], self.rows[row.clamp(min=0)], self.table[ids])

    @torch.no_grad()
    def full_table(self):
        """The table with the trained rows."""
        table = self.table.clone()
        table[self.trained_tokens] = self.rows
        return table
