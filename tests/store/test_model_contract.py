"""What ``ihvp.models.store`` promises, over every adapter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ihvp.errors import InvalidInput, ModelNotFound
from ihvp.models.spec import ModelSpec
from ihvp.models.store import ModelStore, Registration
from ihvp.references import ModelRef
from tests.store.awaited import Awaited
from tests.store.samples import INPUTS, LAYOUT, TARGETS, WEIGHTS, digest, model_spec


def register(models: ModelStore, name: str = "digits", spec: ModelSpec | None = None) -> Registration:
    return models.register(name, spec or model_spec(), layout=LAYOUT, num_params=3, num_points=1797)


def test_versions_count_from_one_and_keep_what_was_registered(models: ModelStore) -> None:
    first = register(models)
    second = register(models, spec=model_spec(dtype="float64"))
    assert (first.created, second.created) == (True, True)
    assert (first.model.reference, second.model.reference) == ("digits@1", "digits@2")
    assert models.get(ModelRef("digits", 1)) == first.model
    assert models.get(ModelRef("digits", 2)) == models.get(ModelRef("digits")) == second.model
    assert (second.model.spec, second.model.layout) == (model_spec(dtype="float64"), LAYOUT)
    assert (second.model.num_params, second.model.num_points) == (3, 1797)
    assert list(models.versions("digits")) == [second.model, first.model]


def test_the_same_spec_keeps_its_version(models: ModelStore) -> None:
    first = register(models)
    register(models, spec=model_spec(dtype="float64"))
    again = register(models)
    assert (again.model, again.created) == (first.model, False)
    assert len(models.versions("digits")) == 2


def test_names_do_not_share_versions(models: ModelStore) -> None:
    register(models, "a")
    other = register(models, "b")
    assert (other.model.version, other.created) == (1, True)


def test_many_at_once_get_each_their_version(models: ModelStore) -> None:
    if isinstance(models, Awaited):
        pytest.skip("one loop: its calls follow each other")
    # Ten specs, each registered four times at once.
    specs = [model_spec(data={"inputs": INPUTS, "targets": TARGETS, "batch_size": 1 + n % 10}) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda spec: register(models, spec=spec), specs))
    assert sum(each.created for each in done) == 10
    assert {each.model.version for each in done} == set(range(1, 11))
    for spec, each in zip(specs, done, strict=True):
        assert models.get(ModelRef("digits", each.model.version)).digest == spec.digest


@pytest.mark.parametrize("reference", ["unknown", "unknown@1"])
def test_an_unknown_name(models: ModelStore, reference: str) -> None:
    register(models)
    with pytest.raises(ModelNotFound, match="No model has this name"):
        models.get(ModelRef.parse(reference))
    with pytest.raises(ModelNotFound, match="No model has this name"):
        models.versions("unknown")


def test_an_unknown_version_says_which_there_are(models: ModelStore) -> None:
    register(models)
    register(models, spec=model_spec(dtype="float64"))
    with pytest.raises(ModelNotFound, match=r"digits@3.*versions 1 to 2"):
        models.get(ModelRef("digits", 3))


def test_names_are_listed_in_order_each_with_its_latest(models: ModelStore) -> None:
    for name in ("c", "a", "b.2", "b", "b-1"):
        register(models, name)
    register(models, "a", model_spec(dtype="float64"))
    listed, cursor = [], None
    while True:
        page, cursor = models.list(limit=2, cursor=cursor)
        assert len(page) <= 2
        listed += [model.reference for model in page]
        if cursor is None:
            break
    assert listed == ["a@2", "b@1", "b-1@1", "b.2@1", "c@1"]


def test_an_empty_registry(models: ModelStore) -> None:
    assert models.list(limit=10) == ([], None)
    assert models.referenced_blobs() == set()


@pytest.mark.parametrize("cursor", ["", "A", "a b", "+", "(a"])
def test_a_cursor_that_is_none_is_refused(models: ModelStore, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        models.list(limit=1, cursor=cursor)


def test_blobs_of_every_version_are_needed(models: ModelStore) -> None:
    register(models)
    register(models, spec=model_spec(weights=digest("9") + "#w"))
    assert models.referenced_blobs() == {WEIGHTS, INPUTS, TARGETS, digest("9")}
    assert models.referenced_among([WEIGHTS, digest("9"), digest("8")]) == {WEIGHTS, digest("9")}


def test_an_alias_stands_for_a_version_until_it_is_moved_or_taken_away(models: ModelStore) -> None:
    first, second = register(models).model, register(models, spec=model_spec(dtype="float64")).model
    assert models.name_version("digits", "champion", 1) == first
    assert models.name_version("digits", "candidate", 2) == second
    assert models.get(ModelRef.parse("digits@champion")) == first
    assert models.aliases("digits") == {"candidate": 2, "champion": 1}
    models.name_version("digits", "champion", 2)
    assert models.get(ModelRef.parse("digits@champion")) == second
    models.drop_alias("digits", "champion")
    assert models.aliases("digits") == {"candidate": 2}
    with pytest.raises(ModelNotFound, match=r"alias.*digits@champion"):
        models.get(ModelRef.parse("digits@champion"))
    assert models.get(ModelRef("digits")) == second
    assert list(models.versions("digits")) == [second, first]


def test_an_alias_of_what_is_not_there_is_refused(models: ModelStore) -> None:
    register(models)
    with pytest.raises(ModelNotFound, match="versions 1 to 1"):
        models.name_version("digits", "champion", 2)
    with pytest.raises(ModelNotFound, match="No model has this name"):
        models.name_version("unknown", "champion", 1)
    for name in ("digits", "unknown"):
        with pytest.raises(ModelNotFound):
            models.drop_alias(name, "champion")
        assert models.aliases(name) == {}


def test_tenants_name_their_own_versions(models: ModelStore) -> None:
    ours, theirs = models.of("us"), models.of("them")
    register(ours)
    register(theirs)
    ours.name_version("digits", "champion", 1)
    assert theirs.aliases("digits") == {}
    with pytest.raises(ModelNotFound):
        theirs.get(ModelRef.parse("digits@champion"))
