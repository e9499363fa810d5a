"""Every setting is documented, and secrets are refused where they must not be defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.settings import Settings
from cli.settings import described, page


def test_the_page_lists_every_setting_as_the_code_has_it() -> None:
    assert Path("docs/configuration.md").read_text() == page()


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, _default, meaning in described() if not meaning] == []


def test_production_does_not_start_on_the_development_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAND_ENVIRONMENT", "production")
    with pytest.raises(ValueError, match="RAVAND_AUTH__SECRET is not set"):
        Settings()


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAND_AUTH__SECRET", "short")
    with pytest.raises(ValueError, match="less than 32 bytes"):
        Settings()


def test_no_secret_shows_in_the_settings_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAND_KAFKA__SASL_PASSWORD", "canary-of-kafka")
    monkeypatch.setenv("RAVAND_AUTH__SECRET", "canary-of-auth-0123456789-0123456789")
    monkeypatch.setenv("RAVAND_DATABASE__URL", "postgresql://ravand:canary-of-postgres@127.0.0.1/ravand")
    assert "canary" not in repr(Settings())
