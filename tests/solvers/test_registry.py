"""Registration: what conforms, what is kept, what is found."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ihvp.errors import NotRegistered, UnknownMethod, UnknownOption
from solvers import (
    InverseHvpResult,
    InversionMethod,
    InversionRegistry,
    TorchTwiceDifferentiable,
    TwiceDifferentiable,
    solve_hvp,
)

CG = InversionMethod.Cg


class Own(TorchTwiceDifferentiable):
    """A model type of the tests, so that the built-in solvers stay as they are."""


class Foreign(TwiceDifferentiable[list]):
    """A model of another tensor library."""

    num_params = 1
    parameters = ()

    @classmethod
    def tensor_type(cls) -> type[list]:
        return list

    def grad(self, x: Any, y: Any, create_graph: bool = False) -> Any: ...

    def hessian(self, x: Any, y: Any) -> Any: ...

    @staticmethod
    def mvp(grad_xy: Any, v: Any, backprop_on: Any) -> Any: ...


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(InversionRegistry.registry)
    yield
    InversionRegistry.registry.clear()
    InversionRegistry.registry.update(before)


def first(
    model: Own, training_data: DataLoader, b: Tensor, hessian_perturbation: float = 0.0, **options: Any
) -> InverseHvpResult:
    """The first."""
    return InverseHvpResult(b, {"by": "first", **options})


def second(
    model: TorchTwiceDifferentiable, training_data: Iterable[Any], b: Tensor, hessian_perturbation: float
) -> InverseHvpResult:
    return InverseHvpResult(b, {"by": "second"})


def own() -> Own:
    return Own(nn.Linear(1, 1), nn.MSELoss())


class TestRegister:
    def test_keeps_name_and_docstring(self) -> None:
        wrapped = InversionRegistry.register(Own, CG)(first)
        assert wrapped.__name__ == "first"
        assert wrapped.__doc__ == "The first."
        assert solve_hvp(CG, own(), [], torch.ones(2), extra=1).info == {"by": "first", "extra": 1}

    def test_an_occupied_key_keeps_the_first_and_names_both(self) -> None:
        InversionRegistry.register(Own, CG)(first)
        with pytest.warns(UserWarning, match=r"first is registered for Own and 'cg' and is kept.*second is not"):
            InversionRegistry.register(Own, CG)(second)
        assert InversionRegistry.get(Own, CG) is first

    def test_overwrite_replaces_silently(self) -> None:
        InversionRegistry.register(Own, CG)(first)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            InversionRegistry.register(Own, CG, overwrite=True)(second)
        assert solve_hvp("cg", own(), [], torch.ones(2)).info == {"by": "second"}

    def test_needs_a_class_and_a_method(self) -> None:
        with pytest.raises(TypeError, match="model_type must be a class, not 'Own'"):
            InversionRegistry.register("Own", CG)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="inversion_method must be an InversionMethod, not 'cg'"):
            InversionRegistry.register(Own, "cg")  # type: ignore[arg-type]


def wrong_model(model: str, training_data: DataLoader, b: Tensor, hessian_perturbation: float = 0.0): ...
def wrong_data(model: Own, training_data: int, b: Tensor, hessian_perturbation: float = 0.0): ...
def text_data(model: Own, training_data: str, b: Tensor, hessian_perturbation: float = 0.0): ...
def wrong_b(model: Own, training_data: DataLoader, b: list[float], hessian_perturbation: float = 0.0): ...
def wrong_damping(model: Own, training_data: DataLoader, b: Tensor, hessian_perturbation: int = 0): ...
def too_few(model: Own, training_data: DataLoader, b: Tensor): ...
def by_name(model: Own, training_data: DataLoader, b: Tensor, *, hessian_perturbation: float = 0.0): ...
def too_many(model: Own, training_data: DataLoader, b: Tensor, hessian_perturbation: float, rank: int): ...


class TestConformance:
    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (wrong_model, "'model'.*must be of type Own, not 'str'"),
            (wrong_data, "'training_data'.*must be of type Iterable, not 'int'"),
            (text_data, "'training_data'.*must be of type Iterable, not 'str'"),
            (wrong_b, "'b'.*must be of type Tensor"),
            (wrong_damping, "'hessian_perturbation'.*must be of type float, not 'int'"),
            (too_few, "no positional parameter 4: it must take 'hessian_perturbation' of type float"),
            (by_name, "no positional parameter 4: it must take 'hessian_perturbation' of type float"),
            (too_many, "'rank'.*must have a default"),
        ],
    )
    def test_names_the_parameter_and_the_type(self, function: Any, message: str) -> None:
        # This module has `from __future__ import annotations`: all of these are strings.
        with pytest.raises(ValueError, match=message):
            InversionRegistry.register(Own, CG)(function)
        assert (Own, CG) not in InversionRegistry.registry

    def test_real_annotations_are_checked_too(self) -> None:
        def function(model, training_data, b, hessian_perturbation=0.0): ...

        function.__annotations__ = {"model": Own, "b": dict}
        with pytest.raises(ValueError, match=r"'b'.*must be of type Tensor"):
            InversionRegistry.register(Own, CG)(function)

    def test_wider_types_unions_and_silence_conform(self) -> None:
        def function(
            model: TwiceDifferentiable[Tensor], training_data: list[Any], b: Tensor | None, damping: float | None
        ) -> Any: ...

        def silent(model, training_data, b, hessian_perturbation=0.0, **options): ...

        InversionRegistry.register(Own, CG)(function)
        InversionRegistry.register(Own, InversionMethod.Direct)(silent)

    def test_a_local_model_class_is_found_by_its_name(self) -> None:
        class Local(Own):
            pass

        def function(model: Local, training_data: DataLoader, b: Tensor, hessian_perturbation: float = 0.0): ...

        InversionRegistry.register(Local, CG)(function)
        with pytest.raises(ValueError, match=r"'model'.*must be of type Own, not 'Local'"):
            InversionRegistry.register(Own, CG)(function)

    def test_the_tensor_type_is_the_models(self) -> None:
        def function(model: Foreign, training_data: Any, b: Tensor, hessian_perturbation: float = 0.0): ...

        with pytest.raises(ValueError, match=r"'b'.*must be of type list"):
            InversionRegistry.register(Foreign, CG)(function)


class TestLookup:
    def test_walks_up_the_bases(self) -> None:
        assert InversionRegistry.get(Own, CG) is InversionRegistry.get(TorchTwiceDifferentiable, CG)
        InversionRegistry.register(Own, CG)(first)
        assert InversionRegistry.get(Own, CG) is first
        assert InversionRegistry.get(TorchTwiceDifferentiable, CG) is not first

    def test_a_subclass_is_solved_by_the_built_in_method(self) -> None:
        model = Own(nn.Linear(2, 1, bias=False), nn.MSELoss())
        x = torch.eye(2)
        result = solve_hvp("cg", model, [(x, torch.zeros(2, 1))], torch.tensor([2.0, 4.0]))
        torch.testing.assert_close(result.x, torch.tensor([2.0, 4.0]))  # H = 2 XᵀX / n = I

    def test_a_miss_lists_what_is_there(self) -> None:
        model = Foreign()
        with pytest.raises(NotRegistered, match=r"Given: \(Foreign, cg\).*\(TorchTwiceDifferentiable, lissa\)"):
            solve_hvp(CG, model, [], [1.0])
        assert issubclass(NotRegistered, LookupError)

    def test_an_unknown_method_is_named(self) -> None:
        with pytest.raises(UnknownMethod, match=r"Given: cgg.*Did you mean 'cg'"):
            solve_hvp("cgg", own(), [], torch.ones(2))

    def test_a_misspelt_option_is_an_error_with_a_suggestion(self) -> None:
        with pytest.raises(UnknownOption, match=r"no option 'max_iter'.*Did you mean 'maxiter'"):
            InversionRegistry.call(CG, own(), [(torch.ones(1, 1),) * 2], torch.ones(2), 0.1, max_iter=3)
