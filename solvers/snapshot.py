"""A model's parameters and buffers as they were at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ihvp.errors import DataMismatch, InvalidInput, LossMismatch
from solvers.batch import Inputs, described
from solvers.determinism import require_deterministic
from solvers.out_of_memory import is_out_of_memory

__all__ = ["ModelSnapshot", "flat_names", "state_flat_names", "trainable_parameters"]


def flat_names(model: nn.Module) -> dict[str, str]:
    """The name by which callers know a parameter, for each of a module's own names, in the order of flat vectors.

    They are the module's own, in the order of ``named_parameters()``, unless others were stated: see
    :func:`state_flat_names`.
    """
    stated: dict[str, str] | None = getattr(model, "flat_names", None)
    return {name: name for name, _ in model.named_parameters()} if stated is None else stated


def state_flat_names(model: nn.Module, names: dict[str, str]) -> None:
    """States under which names, and in which order, callers know the parameters of a module.

    Args:
        model: Keeps them in an attribute ``flat_names``.
        names: From the module's own names. A parameter that is not among them is a constant.
    """
    model.flat_names = names  # type: ignore[assignment]


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that require gradients, by the module's own names, in the order of flat vectors.

    Raises:
        InvalidInput: There are none, or they differ in dtype or device.
    """
    parameters = dict(model.named_parameters())
    named = [(name, parameters[name]) for name in flat_names(model) if parameters[name].requires_grad]
    kinds = {(p.dtype, p.device) for _, p in named}
    if len(kinds) != 1:
        raise InvalidInput(
            "The parameters to differentiate must share one dtype and one device.",
            given=", ".join(sorted(f"{d} on {v}" for d, v in kinds)) or "no parameter requires gradients",
            allowed="float32 or float64, on one device",
        )
    return named


class ModelSnapshot:
    """The model as a function of its parameters, unmoved by what happens to the module later.

    Copies the trainable parameters and the buffers. Parameters with ``requires_grad=False`` are constants
    and are not copied.

    Args:
        model: The module; it must not be in training mode where that matters.

    Attributes:
        names: Names of the trainable parameters.
        parameters: Their values, detached, in the same order.
        num_params: The length p of a flat vector.

    Raises:
        ModelInTrainingMode: The output would change from call to call.
        InvalidInput: No parameter is trainable, or dtypes or devices are mixed.
    """

    def __init__(self, model: nn.Module) -> None:
        require_deterministic(model)
        named = trainable_parameters(model)
        self.names = tuple(name for name, _ in named)
        self.parameters = tuple(p.detach().clone() for _, p in named)
        self.num_params = sum(p.numel() for p in self.parameters)
        self.dtype: torch.dtype = self.parameters[0].dtype
        self.device: torch.device = self.parameters[0].device
        self._model = model
        self._buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        self._sizes = [p.numel() for p in self.parameters]

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The model's modules with their names; the model's own is empty."""
        yield from self._model.named_modules()

    def take(self, other: ModelSnapshot) -> None:
        """Takes over the parameters and buffers of another snapshot of the same module, in this one's dtype."""
        for own, given in zip(self.parameters, other.parameters, strict=True):
            own.copy_(given)
        for name, buffer in self._buffers.items():
            buffer.copy_(other._buffers[name])

    def outputs(self, parameters: Sequence[Tensor], x: Inputs) -> Tensor:
        """The model's outputs ``[m, ...]`` for inputs ``[m, ...]`` at the given parameters.

        A dict of inputs goes to the arguments of its names.

        Raises:
            DataMismatch: The model cannot be applied to the inputs.
            LossMismatch: It returns something else than one tensor.
        """
        values = {**self._buffers, **dict(zip(self.names, parameters, strict=True))}
        try:
            args, named = ((), x) if isinstance(x, dict) else ((x,), None)
            output = functional_call(self._model, values, args, named)
        except NotImplementedError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise DataMismatch(
                "The model cannot be applied to the inputs.",
                given=f"inputs {described(x)}: {str(error).splitlines()[0]}",
            ) from error
        if not isinstance(output, Tensor):
            raise LossMismatch("The model must return one tensor.", given=type(output).__name__)
        return output

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Views of flat vectors ``[p]`` or ``[k, p]`` in the shapes of the parameters."""
        parts = torch.split(flat, self._sizes, dim=-1)
        lead = flat.shape[:-1]
        return tuple(part.reshape((*lead, *p.shape)) for part, p in zip(parts, self.parameters, strict=True))

    def join(self, parts: Sequence[Tensor], batch_dims: int = 0) -> Tensor:
        """The inverse of :meth:`split`, for parts with ``batch_dims`` leading dimensions."""
        return torch.cat(
            [part.flatten(start_dim=batch_dims) if part.ndim > batch_dims else part.unsqueeze(-1) for part in parts],
            dim=-1,
        )
