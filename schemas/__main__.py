"""`python -m schemas` writes the published JSON Schemas anew; files of older versions stay."""

from __future__ import annotations

from schemas.published_schemas import published


def main() -> None:
    """Write every file that differs, and say which."""
    for path, text in published().items():
        if path.exists() and path.read_text() == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
