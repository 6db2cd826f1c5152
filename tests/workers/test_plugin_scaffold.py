"""``ihvp plugin new``: what it makes passes the contract and solves jobs; one with a fault fails the contract."""

from __future__ import annotations

import itertools
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ihvp.errors import InvalidInput
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import GradientOf, ResolvedRhs
from ihvp.methods import TerminationStatus
from ihvp.plugins import new_plugin
from tests.workers.bench import Bench
from tests.workers.problems import Example, job_request, put_tensors
from workers.architectures import build_plugin
from workers.architectures.contract import ArchitectureContract


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder")
    new_plugin("gated-sum", folder)
    return folder / "gated-sum"


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed it."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(package)], check=True)
    return site


def test_its_own_tests_pass_where_it_is_installed(package: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    own = runpy.run_path(str(package / "tests" / "test_architecture.py"))["TestGatedSum"]
    names = [name for name in dir(own) if name.startswith("test_")]
    assert len(names) == 10
    for name in names:
        getattr(own(), name)()


def test_a_job_on_it_is_solved_by_the_worker(site: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    config = {"in_features": 6, "width": 4, "out_features": 3}
    torch.manual_seed(0)
    module = build_plugin("gated-sum", config)
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    example = Example({"type": "gated-sum", "config": config}, module, x, y)
    points = put_tensors(bench.blobs, inputs=x[:3], targets=y[:3])
    rhs = ResolvedRhs(
        gradient_of=GradientOf(inputs=f"{points}#inputs", targets=f"{points}#targets"), shape=[3, example.num_params]
    )
    job = bench.run(job_request(example.upload(bench.blobs), example.num_params, rhs, hessian_perturbation=1.0))
    assert job.state is JobState.Succeeded, job.error
    assert job.result is not None
    assert [entry.status for entry in job.result.certificate] == [TerminationStatus.Converged] * 3
    damped = example.hessian() + torch.eye(example.num_params, dtype=torch.float64)
    expected = torch.linalg.solve(damped, example.gradients(x[:3], y[:3]).T).T
    torch.testing.assert_close(bench.x(job), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["Two", "two_towers", "-x", "x--y", "", "../up", "mlp", "a" * 80])
def test_names_that_are_no_good_make_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInput, match="nothing is written over"):
        new_plugin("mine", tmp_path)


# Plug-ins with a fault each


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Lax(BaseModel):
    pass


class Net(nn.Module):
    """What the faulty ones differ from in one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.layer(x))


class Mixing(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x - x.mean(0))


class Random(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + torch.rand(2)


class Several(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class OnceOnly(Net):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * grad

    def forward(self, x: Tensor) -> Any:
        return self.Function.apply(super().forward(x))


class Hidden(Net):
    """Keeps a state that its state_dict() lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = torch.randn(2)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * self.secret


class Restless(Net):
    """Names that differ from one module to the next."""

    numbers: ClassVar = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter(f"weight_{next(self.numbers)}", nn.Parameter(torch.ones(2)))


class Plugin:
    def __init__(self, net: Callable[[], nn.Module], config: type[BaseModel] = Strict) -> None:
        self.net, self.config = net, config

    def build(self, config: Any) -> nn.Module:
        return self.net()


FAULTS = {
    "test_the_config_is_strict": Plugin(Net, Lax),
    "test_points_do_not_see_each_other": Plugin(Mixing),
    "test_outputs_are_the_same_each_time": Plugin(Random),
    "test_outputs_are_one_tensor_with_a_row_a_point": Plugin(Several),
    "test_it_has_second_derivatives": Plugin(OnceOnly),
    "test_a_job_on_it_is_certified": Plugin(OnceOnly),
    "test_weights_go_through_safetensors": Plugin(Hidden),
    "test_parameters_have_the_same_names_and_order_each_time": Plugin(Restless),
    "test_the_entry_point_names_the_plugin": Plugin(Net),
}


def contract(plugin: Any) -> ArchitectureContract:
    class Filled(ArchitectureContract):
        kind = "not-installed"

        def config(self) -> dict[str, Any]:
            return {}

        def inputs(self) -> Tensor:
            return torch.randn(5, 4)

    filled = Filled()
    filled.plugin = plugin  # type: ignore[misc]
    return filled


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_contract_where_it_should(name: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        getattr(contract(FAULTS[name]), name)()


def test_a_sound_plugin_that_is_not_installed_fails_in_that_alone() -> None:
    failed = []
    for name in (name for name in vars(ArchitectureContract) if name.startswith("test_")):
        try:
            getattr(contract(Plugin(Net)), name)()
        except Exception:
            failed.append(name)
    assert failed == ["test_the_entry_point_names_the_plugin"]
