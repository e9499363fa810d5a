"""A training loop with nothing around it: the same network, data, optimizer and measurements, written down plainly.

`python -m bench.bare_loop CSV EPOCHS BATCH` prints the seconds of each epoch as a JSON array.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import polars as pl
import torch
from torch import nn


def main() -> None:
    """One thread, as the worker's child has by default."""
    file, epochs, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = pl.read_csv(file)
    answers = torch.from_numpy(table["label"].cast(pl.Int64).to_numpy().copy())
    inputs = torch.from_numpy(table.drop("label").to_numpy().astype("float32"))
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    cut = len(inputs) * 8 // 10
    training, validation = (inputs[:cut], answers[:cut]), (inputs[cut:], answers[cut:])
    model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        model.train()
        losses, right = [], torch.zeros((), dtype=torch.int64)
        for chosen in torch.split(torch.randperm(cut), batch):
            output = model(training[0].index_select(0, chosen))
            wanted = training[1].index_select(0, chosen)
            loss = nn.functional.cross_entropy(output, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            right += (output.detach().argmax(1) == wanted).sum()
        model.eval()
        with torch.inference_mode():
            output = model(validation[0])
            measured = (
                float(nn.functional.cross_entropy(output, validation[1])),
                float((output.argmax(1) == validation[1]).float().mean()),
            )
        figures = (float(torch.stack(losses).mean()), float(right) / cut, *measured)
        assert all(figure == figure for figure in figures)
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
