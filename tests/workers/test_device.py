"""Where a worker solves: what is set, or a clear refusal where the machine does not have it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ihvp.blobs.store import BlobStore
from ihvp.errors import SetupError
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from tests.workers.problems import Example
from workers.device import solving_device
from workers.resolvers.model import load_model


def test_the_processor_is_the_default() -> None:
    assert solving_device(Settings.model_fields["device"].default) == torch.device("cpu")


def test_auto_takes_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert solving_device("auto").type == expected


def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    blobs: BlobStore, digits: Example, spec: ModelSpec
) -> None:
    with pytest.raises(SetupError, match=r"IHVP_DEVICE=cuda:99.*Allowed: cpu, auto"):
        load_model(blobs, spec, memory_budget=10**8, device="cuda:99")
    assert load_model(blobs, spec, memory_budget=10**8, device="cpu").num_params == digits.num_params


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_other_names_are_refused_at_the_start(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings(device=name)
