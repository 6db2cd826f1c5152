"""An operator's architecture: installed as a package, found by entry point, checked before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ihvp.errors import InvalidArchitecture, UnknownArchitecture
from ihvp.models.architectures import architecture_names, parse_architecture
from workers.architectures import build_plugin


@pytest.fixture
def installed(plugin_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plugin_site))


def test_an_installed_plugin_is_offered_by_name(installed: None) -> None:
    assert "two-branches" in architecture_names()
    assert parse_architecture("two-branches", {}) is None, "its config is the worker's to check"


def test_an_installed_plugin_builds_its_module(installed: None) -> None:
    module = build_plugin("two-branches", {"in_features": 3, "out_features": 2})
    assert [name for name, _ in module.named_parameters()] == [
        "left.weight", "left.bias", "right.weight", "right.bias",
    ]  # fmt: skip
    assert module(torch.zeros(5, 3)).shape == (5, 2)


def test_a_config_that_the_plugin_refuses_is_the_callers_error(installed: None) -> None:
    with pytest.raises(InvalidArchitecture, match="out_features: Field required"):
        build_plugin("two-branches", {"in_features": 3})
    with pytest.raises(InvalidArchitecture, match="typo: Extra inputs are not permitted"):
        build_plugin("two-branches", {"in_features": 3, "out_features": 2, "typo": 1})


def test_a_plugin_that_fails_to_build_says_why(installed: None) -> None:
    with pytest.raises(InvalidArchitecture, match="more than this module can do"):
        build_plugin("two-branches", {"in_features": 3, "out_features": 2000})


def test_a_plugin_that_cannot_be_imported_is_named(installed: None) -> None:
    with pytest.raises(UnknownArchitecture, match="cannot be imported: ModuleNotFoundError"):
        build_plugin("not-importable", {})


def test_an_entry_point_that_is_no_plugin_is_told_what_to_offer(installed: None) -> None:
    with pytest.raises(UnknownArchitecture, match="no pydantic model 'config'"):
        build_plugin("not-a-plugin", {})


def test_a_plugin_that_is_not_installed_lists_what_is() -> None:
    with pytest.raises(UnknownArchitecture, match=r"cnn, linear, mlp, transformer-lm"):
        build_plugin("two-branches", {})
