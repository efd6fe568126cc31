"""The text encoder and the UNet: Stable Diffusion 1.x's classes and topology with few channels."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .words import CONTEXT, END, START, VOCABULARY

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
            # The fused kernel is slow for narrow heads.
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
    """SD 1.x's training noise."""
    return DDPMScheduler(**NOISE, prediction_type="epsilon", clip_sample=False)


class CaptionWords(nn.Module):
    """A token embedding that trains only the rows of words that occur in captions.

    All other rows keep their random start: a token that no caption used stays a free name for a new subject.
    """

    row_of: torch.Tensor

    def __init__(self, embedding, known):
        super().__init__()
        self.table = embedding.weight.requires_grad_(False)  # [vocabulary, width]
        self.known = known
        self.rows = nn.Parameter(self.table[known].clone())  # [known words, width]
        self.register_buffer("row_of", torch.full((len(self.table),), -1), persistent=False)
        self.row_of[known] = torch.arange(len(known))

    @property
    def weight(self):
        """The whole table as it is now; transformers asks for its dtype."""
        return self.table

    def forward(self, ids):
        row = self.row_of[ids]
        return torch.where((row >= 0)[..., None], self.rows[row.clamp(min=0)], self.table[ids])

    @torch.no_grad()
    def full_table(self):
        """The table with the trained rows in place."""
        table = self.table.clone()
        table[self.known] = self.rows
        return table
