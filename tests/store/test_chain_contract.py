"""Whether messages reach workers: what proves it, and who sends another to see."""

from __future__ import annotations

import time

from ihvp.jobs.store import Chain, JobStore
from tests.store.samples import job_request, new_id

LONG_S = 3600.0
SHORT_S = 0.02


def look(store: JobStore, *, fresh_s: float = LONG_S, pause_s: float = LONG_S, alive_s: float = LONG_S) -> Chain:
    return store.chain(alive_s, fresh_s, pause_s)


def test_without_a_worker_nothing_is_sent(store: JobStore) -> None:
    assert look(store) == Chain(0, None, None, send=False)
    store.worker_alive("w")
    time.sleep(SHORT_S)
    assert look(store, alive_s=SHORT_S / 2) == Chain(0, None, None, send=False)


def test_a_worker_that_took_a_message_is_a_proof_until_it_is_old(store: JobStore) -> None:
    store.worker_alive("w")
    assert store.claim("w", LONG_S) is None, "a message, but no job"
    found = look(store)
    assert found.proof_age_s is not None
    assert (found.workers, found.asked_age_s, found.send) == (1, None, False)
    time.sleep(SHORT_S)
    assert look(store, fresh_s=SHORT_S / 2).send


def test_of_all_who_ask_one_sends(store: JobStore) -> None:
    store.worker_alive("w")
    assert [look(store).send for _ in range(5)] == [True, False, False, False, False]
    time.sleep(SHORT_S)
    again = look(store, pause_s=SHORT_S / 2)
    assert again.send, "the first may be lost"
    assert again.asked_age_s is not None
    assert again.asked_age_s >= SHORT_S, "waited for since the first"


def test_an_answer_ends_the_wait(store: JobStore) -> None:
    store.worker_alive("w")
    look(store)
    assert look(store).asked_age_s is not None
    store.claim("w", LONG_S)
    assert look(store).asked_age_s is None
    # However soon after the proof before: somebody waits for this one.
    assert look(store, fresh_s=0.0).send
    store.claim("w", LONG_S)
    assert look(store).asked_age_s is None


def test_another_ones_proof_counts_and_a_dead_ones_does_not(store: JobStore) -> None:
    for worker in ("deaf", "hears"):
        store.worker_alive(worker)
    store.claim("hears", LONG_S)
    assert look(store).proof_age_s is not None
    store.worker_gone("hears")
    assert look(store).proof_age_s is None


def test_a_worker_that_solves_for_an_hour_is_a_proof(store: JobStore) -> None:
    store.worker_alive("w")
    job = store.create(new_id(), job_request())
    store.claim("w", LONG_S)
    assert look(store, fresh_s=0.0) == Chain(1, 0.0, None, send=False)
    store.release(job.id, 1)
    time.sleep(0.001)
    assert look(store, fresh_s=0.0).send


def test_a_lease_that_ran_out_proves_nothing(store: JobStore) -> None:
    store.worker_alive("w")
    store.create(new_id(), job_request())
    store.claim("w", SHORT_S / 2)
    time.sleep(SHORT_S)
    assert look(store, fresh_s=0.0).send


def test_a_worker_that_comes_later_has_its_own_time_to_answer(store: JobStore) -> None:
    store.worker_alive("deaf")
    look(store)
    time.sleep(SHORT_S)
    store.worker_gone("deaf")
    assert look(store).workers == 0
    store.worker_alive("new")
    asked = look(store).asked_age_s
    assert asked is not None
    assert asked < SHORT_S
