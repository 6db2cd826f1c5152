"""A PyTorch module and its loss, ready to be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from solvers.batch import Inputs
from solvers.determinism import require_deterministic
from solvers.kernels import twice_differentiable_kernels
from solvers.losses import loss_terms
from solvers.snapshot import trainable_parameters
from solvers.twice_differentiable import TwiceDifferentiable

__all__ = ["TorchTwiceDifferentiable"]


class TorchTwiceDifferentiable(TwiceDifferentiable[Tensor]):
    """A PyTorch module with the loss it was trained by.

    The loss of a data set is the mean over its points, where a point's loss is the loss on a batch of one.
    Losses that torch normalises by something else (class weights, ``ignore_index``) have numerator and
    denominator added up over all points and divided once. torch's losses are recognised, as modules, as
    functions and as ``functools.partial`` of functions. A loss of your own may have methods
    ``numerator(output, target)`` and ``denominator(output, target)``; without them it is taken to be a
    mean or a sum over points, which is tried out on a sample of every batch, and refused if it is neither.

    Flat vectors hold the parameters with ``requires_grad=True`` one after another in the order of
    ``model.named_parameters()``, unless the model states another (``solvers.snapshot.state_flat_names``); frozen
    parameters are constants.

    Args:
        model: A module that maps a batch ``[m, ...]``, or several tensors by name, to outputs ``[m, ...]``, in
            evaluation mode if it has dropout or batch norm. Its parameters are float32 or float64, on one device; in
            bfloat16 or float16 products have the two or three digits that those hold, and so has what a certificate
            says.
        loss: ``loss(outputs, targets) -> scalar``. Shapes that would broadcast are an error.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model = model
        self.loss = loss

    @classmethod
    def tensor_type(cls) -> type[Tensor]:
        """``torch.Tensor``."""
        return Tensor

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters in ``named_parameters()`` order."""
        return [p for _, p in trainable_parameters(self.model)]

    @property
    def num_params(self) -> int:
        """The number p of trainable numbers."""
        return sum(p.numel() for p in self.parameters)

    def mean_loss(self, x: Inputs, y: Tensor) -> Tensor:
        """The mean loss, a scalar, over the points of a batch; a dict of inputs goes to the arguments of its names.

        Raises:
            LossMismatch: The loss cannot be taken of the outputs and targets.
            ModelInTrainingMode: The module has active dropout or batch norm.
        """
        require_deterministic(self.model)
        output = self.model(**x) if isinstance(x, dict) else self.model(x)
        terms = loss_terms(self.loss, output, y)
        terms.check(output.detach(), y)
        return terms.numerator(output, y) / terms.denominator(output, y)

    def grad(self, x: Inputs, y: Tensor, create_graph: bool = False) -> Tensor:
        """The gradient ``[p]`` of :meth:`mean_loss`; see there for errors.

        Args:
            x: Inputs ``[n, ...]``, or a dict of such.
            y: Targets ``[n, ...]``.
            create_graph: Whether the gradient can itself be differentiated, by :meth:`mvp`.
        """
        with twice_differentiable_kernels():
            grads = torch.autograd.grad(
                self.mean_loss(x, y),
                self.parameters,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        return torch.cat([g.reshape(-1) for g in grads])

    def hessian(self, x: Inputs, y: Tensor) -> Tensor:
        """The dense, symmetric Hessian ``[p, p]`` of :meth:`mean_loss`; see there for errors."""
        gradient = self.grad(x, y, create_graph=True)
        basis = torch.eye(self.num_params, dtype=gradient.dtype, device=gradient.device)
        rows = self.mvp(gradient, basis, self.parameters)
        return (rows + rows.T) / 2

    @staticmethod
    def mvp(grad_xy: Tensor, v: Tensor, backprop_on: Sequence[Tensor] | Tensor) -> Tensor:
        """Products of a gradient's Jacobian with vectors.

        Args:
            grad_xy: A gradient ``[p]`` from :meth:`grad` with ``create_graph=True``.
            v: One vector ``[p]`` or several ``[k, p]``.
            backprop_on: The parameters that the gradient is differentiated by.

        Returns:
            The products in the shape of ``v``; zero where the gradient does not depend on the parameters.
        """
        targets = [backprop_on] if isinstance(backprop_on, Tensor) else list(backprop_on)
        if not grad_xy.requires_grad:
            return torch.zeros_like(v)
        products = [
            torch.cat(
                [
                    g.reshape(-1)
                    for g in torch.autograd.grad(
                        grad_xy,
                        targets,
                        grad_outputs=row,
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                ]
            )
            for row in v.reshape(-1, grad_xy.shape[0])
        ]
        return torch.stack(products).reshape(v.shape)
