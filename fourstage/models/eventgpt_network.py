"""EventGPT's network: event images → CLIP tower → projector → adaptor → spatio-temporal pooling → LLaMA.

What the published code computes (XduSyL/EventGPT, commit 4680549), on transformers' own CLIP and LLaMA:

    images [T, 3, S, S] → tower, last hidden state with CLS, no post-layernorm      [T, P+1, d_v]
                        → two-layer projector, exact GELU                           [T, P+1, D]
                        → feature adaptor, one linear layer, per image              [T, P+1, D]
                        → temporal means over tokens, then spatial means over T     [T + P+1, D]
                        → at the position of <event> in the prompt

It leaves out the training code and the paths that no released checkpoint takes (the query former, learned temporal
embeddings). `eventgpt.py` has everything that needs no torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from fourstage.models.eventgpt import EVENT_ID, MAX_ROWS


class EventGPT(nn.Module):
    """The whole model: `encode` gives event tokens, `splice` puts them into a prompt, `generate` does all at once."""

    def __init__(self, vision: CLIPVisionConfig, text: LlamaConfig):
        super().__init__()
        self.visual_tower = CLIPVisionModel(vision)
        self.visual_projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.feature_adaptor = nn.Linear(text.hidden_size, text.hidden_size)
        self.language_model = LlamaForCausalLM(text)

    def encode(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Per sample [T + P+1, D], from all samples' images [images, 3, S, S] in one call of the tower."""
        hidden = self.visual_tower(pixel_values).last_hidden_state  # [images, P+1, d_v]
        adapted = self.feature_adaptor(self.visual_projector(hidden))  # [images, P+1, D]
        return tuple(pool(frames) for frames in adapted.split(list(images_per_sample)))

    def splice(self, input_ids: Tensor, events: Tensor) -> Tensor:
        """[rows, D]: the embeddings of ids [tokens] with `events` in place of EVENT_ID, at most MAX_ROWS."""
        index = int((input_ids == EVENT_ID).nonzero()[0])
        embed = self.language_model.get_input_embeddings()
        return torch.cat([embed(input_ids[:index]), events, embed(input_ids[index + 1 :])])[:MAX_ROWS]

    def generate(self, input_ids: Tensor, pixel_values: Tensor, **options: Any) -> Tensor:
        """New ids [1, steps] for one prompt [tokens] and its images [T, 3, S, S], unstaged."""
        (events,) = self.encode(pixel_values, (len(pixel_values),))
        embeds = self.splice(input_ids, events)[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        ids: Tensor = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        return ids


def pool(frames: Tensor) -> Tensor:
    """[T, P+1, D] → [T + P+1, D]: each image's mean over its tokens (CLS too), then each token's over images."""
    return torch.cat([frames.mean(dim=1), frames.mean(dim=0)])
