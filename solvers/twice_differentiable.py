"""The interface of a model whose loss can be differentiated twice, free of any tensor library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["TwiceDifferentiable"]

TensorT = TypeVar("TensorT")


class TwiceDifferentiable(ABC, Generic[TensorT]):
    """A model together with its loss, as the solvers see it.

    A solver is registered for a subclass of this in :class:`solvers.InversionRegistry`, and found for
    every subclass of that one.
    """

    @classmethod
    @abstractmethod
    def tensor_type(cls) -> type[TensorT]:
        """The class of the vectors and batches of this kind of model."""

    @property
    @abstractmethod
    def num_params(self) -> int:
        """The number p of parameters that are differentiated."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[TensorT]:
        """The parameters that are differentiated, in the order of the flat vectors."""

    @abstractmethod
    def grad(self, x: TensorT, y: TensorT, create_graph: bool = False) -> TensorT:
        """The gradient ``[p]`` of the mean loss over the points of a batch.

        Args:
            x: Inputs ``[n, ...]``.
            y: Targets ``[n, ...]``.
            create_graph: Whether the gradient can itself be differentiated.
        """

    @abstractmethod
    def hessian(self, x: TensorT, y: TensorT) -> TensorT:
        """The dense Hessian ``[p, p]`` of the mean loss over the points of a batch."""

    @staticmethod
    @abstractmethod
    def mvp(grad_xy: TensorT, v: TensorT, backprop_on: Sequence[TensorT] | TensorT) -> TensorT:
        """Products of a gradient's Jacobian with vectors.

        Args:
            grad_xy: A gradient ``[p]`` from :meth:`grad` with ``create_graph=True``.
            v: One vector ``[p]`` or several ``[k, p]``.
            backprop_on: The parameters that the gradient is differentiated by.

        Returns:
            The products, one a vector, in the shape of ``v``.
        """
