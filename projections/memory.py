"""What a projector knows of the workspaces of one partition: bounded, and never older than its own last commit.

Whatever a batch changed stays until the commit that holds it is known to be ours, since the database does not show it
before; everything else may be dropped and loaded again. See protocol: publishing, first rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from domain.workspace import CheckpointKey, Needs, Workspace

Key = tuple[str, str, object]
"""(what it is, workspace, its id): `("job", "w1", "j7")`."""


class Memory:
    """The folded state in hand. `committed` is the last position known to be stored by ourselves."""

    def __init__(self, committed: int, capacity: int) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.committed = committed
        self.capacity = capacity
        self._used: dict[Key, int] = {}
        """When a key was last used, by position, least recently used first. Known absences are in it too."""
        self._requests: list[tuple[int, str, str]] = []
        """Request ids that the database may not show yet: (position, workspace, id), oldest first."""

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, key: Key) -> bool:
        return key in self._used

    def use(self, keys: Iterable[Key], position: int) -> None:
        """These were needed or changed by the batch that ends at `position`."""
        used = self._used
        for key in keys:
            used.pop(key, None)
            used[key] = position

    def requested(self, workspace: str, id: str, position: int) -> None:
        """Keep a request's id until the batch that ends at `position` is stored, and the database knows it."""
        self._requests.append((position, workspace, id))

    def committed_through(self, position: int) -> None:
        """The batch that ends at `position` is stored, by ourselves. Call between batches only: this forgets."""
        self.committed = position
        stored = 0
        for ended, workspace, id in self._requests:
            if ended > position:
                break
            stored += 1
            if (folded := self.workspaces.get(workspace)) is not None:
                folded.requests.discard(id)
        del self._requests[:stored]
        self._forget()

    def _forget(self) -> None:
        excess = len(self._used) - self.capacity
        if excess <= 0:
            return
        stale: list[Key] = []
        for key, position in self._used.items():
            if len(stale) == excess or position > self.committed:
                break
            stale.append(key)
        for key in stale:
            del self._used[key]
            self._drop(key)

    def _drop(self, key: Key) -> None:
        kind, workspace, id = key
        folded = self.workspaces.get(workspace)
        if folded is None:
            return
        if kind == "workspace":
            # Its version goes with the last thing that is known of it, or it could be loaded older than the rest.
            if (
                folded.jobs
                or folded.datasets
                or folded.series
                or folded.models
                or folded.checkpoints
                or folded.requests
            ):
                self._used[key] = self.committed
            else:
                del self.workspaces[workspace]
            return
        held: dict[object, object] = {
            "job": folded.jobs,
            "dataset": folded.datasets,
            "series": folded.series,
            "model": folded.models,
            "checkpoint": folded.checkpoints,
        }[kind]  # type: ignore[assignment]  # Each maps its own kind of id.
        held.pop(id, None)


def keys_of(workspace: str, needed: Needs) -> Iterator[Key]:
    """The keys that judging one record reads, but for its request id, which is looked up by itself."""
    if needed.job is not None:
        yield "job", workspace, needed.job
    if needed.dataset is not None:
        yield "dataset", workspace, needed.dataset
    if needed.series is not None:
        yield "series", workspace, needed.series
    if needed.model is not None:
        yield "model", workspace, needed.model
    if needed.checkpoint is not None:
        yield "checkpoint", workspace, needed.checkpoint


__all__ = ["CheckpointKey", "Key", "Memory", "keys_of"]
