"""Checks that a function can be called as a solver, by its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["check_signature"]

NAMES: Final = ("model", "training_data", "b", "hessian_perturbation")

Accepts = Callable[[type], bool]


def check_signature(function: Callable[..., Any], model_type: type) -> None:
    """Checks the first four parameters of a solver.

    They must be passable by position, and each annotation must admit what the registry passes. A parameter
    without an annotation, or with one that is no class (``Any``, a type variable), claims nothing.

    Args:
        function: The solver to be.
        model_type: The kind of model it is to be registered for.

    Raises:
        ValueError: Names the parameter and the type expected of it.
    """
    tensor_type = getattr(model_type, "tensor_type", None)
    tensor = tensor_type() if callable(tensor_type) else None
    expected: tuple[tuple[str, Accepts], ...] = (
        (model_type.__name__, lambda t: issubclass(model_type, t)),
        ("Iterable", _takes_batches),
        (getattr(tensor, "__name__", "a tensor"), lambda t: not isinstance(tensor, type) or issubclass(tensor, t)),
        ("float", lambda t: issubclass(float, t)),
    )
    parameters = list(inspect.signature(function).parameters.values())
    takes_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for index, (name, (type_name, accepts)) in enumerate(zip(NAMES, expected, strict=True)):
        if index >= len(positional):
            if takes_rest:
                return
            raise ValueError(
                f"{_name(function)} has no positional parameter {index + 1}: "
                f"it must take {name!r} of type {type_name}."
            )
        annotation = _resolve(positional[index].annotation, function, model_type)
        # Every name that the model's annotation may rightly have is known; other names can be anything.
        stranger = name == "model" and isinstance(annotation, str)
        if stranger or not _admits(annotation, accepts):
            raise ValueError(
                f"Parameter {positional[index].name!r} of {_name(function)} ({name!r}) must be of type "
                f"{type_name}, not {positional[index].annotation!r}."
            )
    for extra in positional[4:]:
        if extra.default is extra.empty:
            raise ValueError(
                f"Parameter {extra.name!r} of {_name(function)} must have a default: "
                "a solver is called with four positional arguments, and options by name."
            )


def _takes_batches(t: type) -> bool:
    # Strings are iterable too, and nobody means them.
    return t is object or (issubclass(t, Iterable) and not issubclass(t, (str, bytes)))


def _resolve(annotation: Any, function: Callable[..., Any], model_type: type) -> Any:
    """An annotation that may be a string, as an object; the string itself where it cannot be evaluated."""
    if not isinstance(annotation, str):
        return annotation
    plain = inspect.unwrap(function)
    names: dict[str, Any] = {t.__name__: t for t in model_type.__mro__}
    names.update(inspect.getclosurevars(plain).nonlocals if inspect.isfunction(plain) else {})
    try:
        return eval(annotation, getattr(plain, "__globals__", {}), names)  # noqa: S307 - the caller's own code
    except (NameError, AttributeError, TypeError, SyntaxError):
        return annotation


def _admits(annotation: Any, accepts: Accepts) -> bool:
    if annotation is inspect.Parameter.empty or annotation is Any or isinstance(annotation, typing.TypeVar):
        return True
    if isinstance(annotation, str):
        # Imported for type checkers only: nothing can be checked.
        return True
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_admits(member, accepts) for member in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _admits(typing.get_args(annotation)[0], accepts)
    if origin is not None:
        annotation = origin
    return accepts(annotation) if isinstance(annotation, type) else annotation is not None


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
