"""States as files: what goes in comes out, bit for bit, and nothing else is trusted."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.object_store_blocking import BlockingObjectStore
from adapters.objects import StoreUnavailable
from domain.events import Checkpoint
from workers import checkpoint_files
from workers.checkpoint_files import CheckpointUnreadable, from_bytes, same, to_bytes

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
tensors = st.sampled_from(
    [
        torch.zeros(()),
        torch.arange(6).reshape(2, 3),
        torch.tensor([1.5, -0.0, math.inf]),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.uint8),
        torch.ones(2, 3, dtype=torch.float64).T,
        torch.ones(3, dtype=torch.bfloat16),
    ]
)
states = st.dictionaries(
    st.text() | st.integers(),
    st.recursive(
        scalars | tensors,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(states)
def test_what_goes_in_comes_out(state: dict[Any, Any]) -> None:
    assert same(from_bytes(to_bytes(state)), state)


def test_an_optimizer_s_state_is_a_state() -> None:
    weights = [torch.nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW(weights)
    weights[0].grad = torch.ones(3)
    optimizer.step()
    assert same(from_bytes(to_bytes(optimizer.state_dict())), optimizer.state_dict())


def test_tensors_that_share_memory_are_kept_apart() -> None:
    weight = torch.arange(4.0)
    state = from_bytes(to_bytes({"a": weight, "b": weight, "c": weight[1:]}))
    state["a"].zero_()
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["c"], weight[1:])


@pytest.mark.parametrize("value", [object(), {1, 2}, math.nan, b"bytes"])
def test_what_cannot_be_kept_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        to_bytes({"value": value})


@given(st.integers(0, 400), st.sampled_from(["cut", "flip"]))
def test_damaged_bytes_are_never_a_state(position: int, damage: str) -> None:
    data = to_bytes({"epoch": 1, "weight": torch.arange(32.0)})
    broken = data[: min(position, len(data) - 1)] if damage == "cut" else bytearray(data)
    if isinstance(broken, bytearray):
        broken[position % len(data)] ^= 0x55
    with tempfile.TemporaryDirectory() as folder:
        store = BlockingObjectStore(f"file://{folder}")
        store.init_sync()
        sha256 = checkpoint_files.write(store, "jobs/j/1/c", {"epoch": 1, "weight": torch.arange(32.0)})
        store.put_sync("jobs/j/1/c", bytes(broken))
        checkpoint = Checkpoint(attempt=1, epoch=1, step=0, uri="jobs/j/1/c", sha256=sha256)
        with pytest.raises(CheckpointUnreadable):
            checkpoint_files.read(store, checkpoint)


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95no pickle", b"\xff" * 64])
def test_other_files_are_no_checkpoints(data: bytes) -> None:
    with pytest.raises(CheckpointUnreadable):
        from_bytes(data)


def test_a_store_that_is_away_is_not_a_checkpoint_that_is_lost(tmp_path: Path) -> None:
    store = BlockingObjectStore(f"file://{tmp_path}/store")
    checkpoint = Checkpoint(attempt=1, epoch=1, step=0, uri="jobs/j/1/c", sha256="0" * 64)
    with pytest.raises(StoreUnavailable):
        checkpoint_files.read(store, checkpoint)
    store.init_sync()
    with pytest.raises(CheckpointUnreadable):
        checkpoint_files.read(store, checkpoint)
