"""What the training code may not do: load torch into the worker, unpickle, outlive the worker."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.trainer.test_trainer_trouble import gone

ROOT = Path(__file__).parents[3]
SOURCES = [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]

WORKER = """
import asyncio, sys
from workers.warm_child import WarmChildren

async def main():
    children = WarmChildren()
    await children.start()
    child = await children.take()
    print(child.pid, children._server.pid, 'torch' in sys.modules, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_worker_has_no_torch_and_takes_its_children_along() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, cwd=ROOT, text=True) as worker:
        try:
            assert worker.stdout is not None
            child, server, has_torch = worker.stdout.readline().split()
            title = Path(f"/proc/{server}/cmdline").read_bytes().rstrip(b"\0").decode()
            threads = len(list(Path(f"/proc/{server}/task").iterdir()))
        finally:
            worker.kill()
    assert has_torch == "False"
    assert title == "ravand: fork server"
    assert threads == 1  # What else there was would not survive a fork.
    gone(int(child))
    gone(int(server))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                assert not {name.name.split(".")[0] for name in names} & {"pickle", "cloudpickle", "joblib", "dill"}
            case ast.ImportFrom(module=str(module)):
                assert module.split(".")[0] not in {"pickle", "cloudpickle", "joblib", "dill"}
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)):
                assert name not in {"load", "save"}
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=allowed)):
                assert not allowed
