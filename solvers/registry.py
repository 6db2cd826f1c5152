"""Which function solves by which method for which kind of model."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from ihvp.errors import NotRegistered, UnknownOption
from ihvp.methods import InversionMethod, parse_method
from solvers.conformance import check_signature
from solvers.damping import Perturbation
from solvers.kernels import full_precision
from solvers.result import InverseHvpResult

__all__ = ["InversionRegistry"]

Solver = Callable[..., InverseHvpResult[Any]]
SolverT = TypeVar("SolverT", bound=Solver)


class InversionRegistry:
    """Solvers by kind of model and method; a subclass of a model finds its base's solvers."""

    registry: ClassVar[dict[tuple[type, InversionMethod], Solver]] = {}

    @classmethod
    def register(
        cls, model_type: type, inversion_method: InversionMethod, overwrite: bool = False
    ) -> Callable[[SolverT], SolverT]:
        """Decorates a function ``(model, training_data, b, hessian_perturbation=0.0, **options)``.

        The function itself is returned, so its name and docstring stay.

        Args:
            model_type: The kind of model it solves for.
            inversion_method: The method it implements.
            overwrite: Whether it replaces one that is registered. Otherwise the first is kept, with a warning.

        Raises:
            TypeError: ``model_type`` is no class, or ``inversion_method`` no :class:`InversionMethod`.
            ValueError: The signature does not conform; names the parameter and the type expected of it.
        """
        if not isinstance(model_type, type):
            raise TypeError(f"model_type must be a class, not {model_type!r}.")
        if not isinstance(inversion_method, InversionMethod):
            raise TypeError(f"inversion_method must be an InversionMethod, not {inversion_method!r}.")
        key = (model_type, inversion_method)

        def decorate(function: SolverT) -> SolverT:
            check_signature(function, model_type)
            present = cls.registry.get(key)
            if present is not None and not overwrite:
                warnings.warn(
                    f"{_name(present)} is registered for {model_type.__name__} and {inversion_method.value!r} "
                    f"and is kept; {_name(function)} is not registered. Pass overwrite=True to replace it.",
                    stacklevel=2,
                )
            else:
                cls.registry[key] = function
            return function

        return decorate

    @classmethod
    def get(cls, model_type: type, method: InversionMethod | str) -> Solver:
        """The function registered for a class or the nearest of its bases.

        Raises:
            NotRegistered: There is none; lists what there is.
            UnknownMethod: No method has this name.
        """
        method = parse_method(method)
        for base in model_type.__mro__:
            if (base, method) in cls.registry:
                return cls.registry[base, method]
        there_is = ", ".join(sorted(f"({t.__name__}, {m.value})" for t, m in cls.registry))
        raise NotRegistered(
            "No solver is registered for this kind of model and method.",
            given=f"({model_type.__name__}, {method.value})",
            allowed=there_is or "nothing is registered",
        )

    @classmethod
    def call(
        cls,
        method: InversionMethod | str,
        model: Any,
        training_data: Iterable[Any],
        b: Any,
        hessian_perturbation: Perturbation = 0.0,
        **options: Any,
    ) -> InverseHvpResult[Any]:
        """Solves with the function registered for the model's class.

        Raises:
            NotRegistered: There is none; lists what there is.
            UnknownMethod: No method has this name.
            UnknownOption: The function has no option of this name.
        """
        function = cls.get(type(model), method)
        _check_option_names(function, options, parse_method(method))
        with full_precision():
            return function(model, training_data, b, hessian_perturbation, **options)


def _check_option_names(function: Solver, options: dict[str, Any], method: InversionMethod) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in list(parameters)[4:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for option in options:
        if option not in names:
            close = difflib.get_close_matches(option, names, n=1)
            raise UnknownOption(
                f"Method {method.value!r} has no option {option!r}.",
                given=option,
                allowed=", ".join(names) or "no options",
                hint=f"Did you mean {close[0]!r}?" if close else None,
            )


def _name(function: Solver) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
