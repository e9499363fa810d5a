"""The network of the recipe `image-classification`: a few convolutions, each at half the size of the one before."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageNetwork(nn.Module):
    """Pixels as they are in, one value a class out. It standardises them itself, by figures among its weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, size: tuple[int, int], width: int, outputs: int, dropout: float = 0.0) -> None:
        """`size`: height and width; `width`: channels of the first convolution."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))
        halvings = max(1, min(4, min(size).bit_length() - 3))
        layers: list[nn.Module] = []
        for level in range(halvings + 1):
            wide = width * min(4, 2**level)
            layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            if level < halvings:
                layers.append(nn.MaxPool2d(2))
            channels = wide
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, outputs)

    def standardise_like(self, pixels: Tensor) -> None:
        """Learn the mean and the spread of each channel."""
        spread, mean = torch.std_mean(pixels[:: max(1, len(pixels) // 10_000)].float(), dim=(0, 2, 3), keepdim=True)
        self.mean.copy_(mean)
        self.scale.copy_(spread.clamp(min=1e-6))

    def forward(self, pixels: Tensor) -> Tensor:
        """Rows × outputs."""
        features = self.layers((pixels.float() - self.mean) / self.scale)
        # A mean over the image: adaptive pooling has no deterministic form on a GPU.
        result: Tensor = self.head(self.dropout(features.mean(dim=(2, 3))))
        return result
