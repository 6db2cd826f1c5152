"""Every setting is documented, and the environment is read nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ihvp.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def documented() -> dict[str, str]:
    """Variable → the default as docs/settings.md prints it."""
    table = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(IHVP_[A-Z_]+)` \| `([^`]*)` \|", table, flags=re.MULTILINE))


def test_the_table_of_settings_is_complete_and_its_defaults_true() -> None:
    real = {f"IHVP_{name.upper()}": str(field.default) for name, field in Settings.model_fields.items()}
    assert documented() == real


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("store", "broker"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/1"),
        ("redis://:secret@db:7000", "redis://:secret@db:7000/1"),
        ("rediss://u:p@db:7000/4", "rediss://u:p@db:7000/5"),
    ],
)
def test_the_broker_is_the_stores_next_database(store: str, broker: str) -> None:
    assert Settings(redis_url=store).resolved_broker_url == broker


def test_a_broker_of_its_own_is_taken_as_it_is() -> None:
    assert Settings(broker_url="redis://elsewhere/9").resolved_broker_url == "redis://elsewhere/9"


def test_variables_are_read_with_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IHVP_LEASE_S", "7.5")
    monkeypatch.setenv("LEASE_S", "1")
    assert Settings().lease_s == 7.5


def test_a_setting_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_s"):
        Settings(lease_s=0)
