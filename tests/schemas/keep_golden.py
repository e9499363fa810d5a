"""`python -m tests.schemas.keep_golden` writes what is not kept yet: bytes of new examples, schemas of new versions.

What is there is never written again: it stands for records and readers that exist outside of this repository.
"""

from __future__ import annotations

from pathlib import Path

from schemas.envelope import encode
from schemas.published_schemas import FOLDER as PUBLISHED
from tests.schemas.examples import STORY, example

GOLDEN = Path(__file__).parent / "golden"
RELEASED = Path(__file__).parent / "released"


def main() -> None:
    """Write the files that are missing."""
    for name in STORY:
        _keep(GOLDEN / f"{name}.json", encode(example(name)))
    for path in PUBLISHED.glob("**/*.json"):
        _keep(RELEASED / path.relative_to(PUBLISHED), path.read_bytes())


def _keep(path: Path, content: bytes) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(path)


if __name__ == "__main__":
    main()
