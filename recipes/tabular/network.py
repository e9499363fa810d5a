"""The network of the recipe `tabular`: embeddings beside numbers, then hidden layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recipes.tabular.encoding import UNKNOWN, TableEncoding
from recipes.tabular.spec import TabularParameters
from recipes.target import Target


class TableNetwork(nn.Module):
    """Numbers and category indices in, one value an output out."""

    offsets: Tensor

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        embedding_size: int,
        hidden: Sequence[int],
        outputs: int,
        dropout: float = 0.0,
    ) -> None:
        """`categories`: how many indices each category column has."""
        super().__init__()
        self.embedding: nn.Embedding | None = None
        width = numbers
        if categories:
            # One table for all columns, each with its own stretch of rows: one lookup whatever their number.
            starts = [sum(categories[:column]) for column in range(len(categories))]
            self.register_buffer("offsets", torch.tensor(starts), persistent=False)
            self.embedding = nn.Embedding(sum(categories), embedding_size)
            with torch.no_grad():
                # A value that training never saw should say nothing, rather than something random.
                self.embedding.weight[[start + UNKNOWN for start in starts]] = 0.0
            width += len(categories) * embedding_size
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    @classmethod
    def of(cls, encoding: TableEncoding, target: Target, parameters: TabularParameters) -> TableNetwork:
        """A network of the sizes that the data and the parameters ask for."""
        return cls(
            numbers=sum(column.width for column in encoding.numbers),
            categories=[column.size for column in encoding.categories],
            embedding_size=parameters.embedding_size,
            hidden=parameters.hidden,
            outputs=target.outputs,
            dropout=parameters.dropout,
        )

    def forward(self, numbers: Tensor, categories: Tensor | None = None) -> Tensor:
        """Rows × outputs."""
        if self.embedding is not None:
            assert categories is not None
            embedded = self.embedding(categories + self.offsets).flatten(1)
            numbers = torch.cat([numbers, embedded], dim=1)
        result: Tensor = self.layers(numbers)
        return result
