"""Every setting is documented, and the environment is read nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ihvp.errors import SetupError
from ihvp.settings import Settings, get_settings

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


@pytest.fixture
def secrets_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of secrets that the settings look into, as a process that starts now reads them."""
    monkeypatch.setenv("IHVP_SECRETS_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def test_a_file_among_the_secrets_is_a_setting_and_a_variable_wins(
    secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets_dir / "ihvp_namespace").write_text("from-a-file\n")
    assert Settings().namespace == "from-a-file"
    monkeypatch.setenv("IHVP_NAMESPACE", "from-a-variable")
    assert Settings().namespace == "from-a-variable"


@pytest.mark.parametrize(
    ("url", "filled"),
    [
        ("redis://db:7000/2", "redis://:p%40s%2Fs%20w@db:7000/2"),
        ("redis://user@db/2", "redis://user:p%40s%2Fs%20w@db/2"),
        ("rediss://[::1]:7000?ssl_cert_reqs=none", "rediss://:p%40s%2Fs%20w@[::1]:7000?ssl_cert_reqs=none"),
        ("unix:///run/store.sock?db=2", "unix://:p%40s%2Fs%20w@/run/store.sock?db=2"),
        ("redis://:own@db/2", "redis://:own@db/2"),
        ("unix:///run/store.sock?password=own", "unix:///run/store.sock?password=own"),
        ("amqp://db//", "amqp://db//"),
    ],
)
def test_the_stores_password_goes_where_none_is(secrets_dir: Path, url: str, filled: str) -> None:
    (secrets_dir / "ihvp_store_password").write_text("p@s/s w\n")
    given = Settings(redis_url="redis://db:7000/2", broker_url=url)
    assert given.broker_url == filled
    assert given.redis_url == "redis://:p%40s%2Fs%20w@db:7000/2"
    assert Settings(redis_url="redis://db:7000/2").resolved_broker_url == "redis://:p%40s%2Fs%20w@db:7000/3"
    if not url.startswith("amqp"):
        assert redis.Redis.from_url(filled).connection_pool.connection_kwargs["password"] in ("p@s/s w", "own")


def test_a_password_says_not_that_a_store_was_named(secrets_dir: Path) -> None:
    (secrets_dir / "ihvp_store_password").write_text("word")
    assert "redis_url" not in Settings().model_fields_set
    assert "word" not in repr(Settings().store_password)


def test_a_secret_that_cannot_be_used_is_one_line(secrets_dir: Path) -> None:
    secret = secrets_dir / "ihvp_store_password"

    def refused(*words: str) -> None:
        get_settings.cache_clear()
        with pytest.raises(SetupError) as caught:
            get_settings()
        said = str(caught.value)
        assert "IHVP_STORE_PASSWORD" in said
        assert "\n" not in said
        for word in words:
            assert word in said

    secret.write_text(" \n")
    refused("empty")
    secret.write_bytes(b"\xff\xfe\xfa")
    refused("no text")
    secret.unlink()
    secret.mkdir()  # what Docker makes of a file that is not there
    refused("found a directory", "10001")
    secret.rmdir()
    assert get_settings().store_password is None


def test_a_list_that_is_not_written_as_one_is_refused_by_its_name(
    secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IHVP_SOURCE_HOSTS", "data.example.org")
    with pytest.raises(SetupError, match=r"IHVP_SOURCE_HOSTS.*JSON"):
        get_settings()
