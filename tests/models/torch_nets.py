"""Networks of PyTorch as a user might have them in a file, for the converter."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """Convolutions with batch normalisations, some of which start with equal values."""

    def __init__(self, classes: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.blocks = nn.ModuleList(self._block(width) for _ in range(3))
        self.fc = nn.Linear(width, classes)

    @staticmethod
    def _block(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


class Encoder(nn.Module):
    """A transformer over tokens that returns more than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encoder(self.embedding(tokens))
        return {"logits": self.head(hidden.mean(1)), "hidden": hidden}


class Branching(nn.Module):
    """What a trace cannot hold: Python that looks at the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * (2.0 if x.shape[0] > 3 else 1.0)
