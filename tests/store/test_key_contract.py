"""What every store of API keys does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihvp.errors import KeyNotFound
from ihvp.keys.key import KeyRecord, KeySpec, KeyState, Scope, Secret
from ihvp.keys.memory_store import MemoryKeyStore
from ihvp.keys.redis_store import AsyncRedisKeyStore, RedisKeyStore
from ihvp.keys.store import KeyStore
from tests.store.awaited import ADAPTERS, adapter


@pytest.fixture(params=ADAPTERS)
def keys(request: pytest.FixtureRequest) -> Iterator[KeyStore]:
    yield from adapter(request, MemoryKeyStore, RedisKeyStore, AsyncRedisKeyStore)


def make(keys: KeyStore, name: str = "somebody", expires_s: float | None = None) -> tuple[Secret, KeyRecord]:
    secret = Secret.draw()
    spec = KeySpec(name=name, tenant="acme", scope=Scope.Submit, sha256=secret.sha256)
    return secret, keys.create(secret.id, spec, expires_s=expires_s)


def test_a_key_is_found_by_its_id_and_opened_by_its_secret(keys: KeyStore) -> None:
    secret, made = make(keys)
    looked = keys.look(secret.id)
    assert looked.key == made
    assert (made.tenant, made.scope, made.state, made.used_at) == ("acme", Scope.Submit, KeyState.Active, None)
    assert secret.opens(made.sha256)
    assert not Secret.draw().opens(made.sha256)


def test_the_secret_itself_is_kept_nowhere(keys: KeyStore) -> None:
    secret, made = make(keys)
    assert secret.secret not in made.model_dump_json()
    assert secret.secret not in repr(secret)
    assert Secret.parse(str(secret)) == secret


def test_a_key_is_needed_from_the_first_one_on_and_ever_after(keys: KeyStore) -> None:
    assert not keys.look("").guarded
    secret, _ = make(keys)
    assert keys.look("").guarded
    assert keys.look("").key is None
    keys.revoke(secret.id)
    assert keys.look("nothing").guarded


def test_a_revoked_key_stays_listed_and_revoked(keys: KeyStore) -> None:
    (first, _), (second, _) = make(keys, "first"), make(keys, "second")
    revoked = keys.revoke(first.id)
    assert revoked.state is KeyState.Revoked
    assert keys.revoke(first.id).revoked_at == revoked.revoked_at
    assert [(key.name, key.state) for key in keys.list()] == [
        ("first", KeyState.Revoked),
        ("second", KeyState.Active),
    ]
    assert keys.list()[1].id == second.id
    with pytest.raises(KeyNotFound):
        keys.revoke("0" * 12)


def test_a_key_expires_on_the_stores_clock(keys: KeyStore) -> None:
    _, made = make(keys, expires_s=1e-6)
    assert keys.look(made.id).key is not None
    assert keys.list()[0].state is KeyState.Expired
    _, lasting = make(keys, expires_s=3600)
    assert lasting.state is KeyState.Active
    assert lasting.expires_at is not None
    assert 3599 < (lasting.expires_at - lasting.created_at).total_seconds() < 3601


def test_its_last_use_is_noted(keys: KeyStore) -> None:
    _, made = make(keys)
    keys.note_use(made.id)
    keys.note_use("0" * 12)
    [found] = keys.list()
    assert found.used_at is not None
    assert found.used_at >= made.created_at


def test_scopes_contain_each_other() -> None:
    assert [[scope.allows(needed) for needed in Scope] for scope in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
