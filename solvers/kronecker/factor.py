"""Curvature as one Kronecker product a layer and a diagonal for the rest, ready to be inverted at any λ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from solvers.snapshot import ModelSnapshot

__all__ = ["KroneckerBlock", "KroneckerFactor"]


@dataclass(frozen=True)
class KroneckerBlock:
    """(Q_G ⊗ Q_A) diag(eigenvalues) (Q_G ⊗ Q_A)ᵀ, the curvature in the parameters of one layer.

    The layer's parameters are a matrix ``[out, in]``, the bias being its last column.

    Attributes:
        weight: Place of the weight among the parameters.
        bias: That of the bias, or None.
        inputs: Q_A, orthonormal columns ``[in, in]``.
        outputs: Q_G, orthonormal columns ``[out, out]``.
        eigenvalues: ``[out, in]``, none negative.
    """

    weight: int
    bias: int | None
    inputs: Tensor
    outputs: Tensor
    eigenvalues: Tensor

    @property
    def parameters(self) -> tuple[int, ...]:
        """The places of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Matrices ``[k, out, in]`` from all parameters' parts ``[k, *shape]``."""
        weight = parts[self.weight].flatten(start_dim=2)
        return weight if self.bias is None else torch.cat([weight, parts[self.bias].unsqueeze(2)], dim=2)

    def part(self, M: Tensor, place: int) -> Tensor:
        """The part of one of its parameters in matrices ``[k, out, in]``."""
        if place == self.bias:
            return M[:, :, -1]
        return M if self.bias is None else M[:, :, :-1]

    def solve(self, M: Tensor, weight: float, bias: float) -> Tensor:
        """Applies the inverse of the block + λI to matrices ``[k, out, in]``.

        λ is added to the eigenvalues themselves: A and G get no damping of their own, as they do in Martens &
        Grosse, section 6.3. Another λ for the bias changes one coordinate of the inputs, which is a change of rank
        one for each eigenvector of G (Sherman & Morrison, 1950), so it is exact as well.

        Args:
            M: Right-hand sides.
            weight: λ > 0 of the weight.
            bias: λ > 0 of the bias; of no effect where there is none.
        """
        inverse = 1.0 / (self.eigenvalues + weight)
        rotated = (self.outputs.T @ M @ self.inputs) * inverse
        if self.bias is not None and bias != weight:
            coordinate = self.inputs[-1]
            change = (bias - weight) / (1.0 + (bias - weight) * (inverse @ coordinate.square()))
            rotated = rotated - ((rotated @ coordinate) * change).unsqueeze(2) * (inverse * coordinate)
        return self.outputs @ rotated @ self.inputs.T


@dataclass(frozen=True)
class KroneckerFactor:
    """What K-FAC and EK-FAC know of a problem's curvature.

    Attributes:
        blocks: One a layer.
        diagonal: The diagonal of the curvature by place, for each parameter outside the layers.
    """

    blocks: tuple[KroneckerBlock, ...]
    diagonal: Mapping[int, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Three matrices and the places of the parameters for each layer; the diagonals by place."""
        named: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            named[f"layer.{i}.parameters"] = torch.tensor(block.parameters)
            named[f"layer.{i}.inputs"] = block.inputs
            named[f"layer.{i}.outputs"] = block.outputs
            named[f"layer.{i}.eigenvalues"] = block.eigenvalues
        return {**named, **{f"diagonal.{place}": values for place, values in self.diagonal.items()}}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The factor that these tensors came from."""
        diagonal = {int(name.split(".")[1]): t for name, t in tensors.items() if name.startswith("diagonal.")}
        blocks = []
        for i in range(sum(name.endswith(".parameters") for name in tensors)):
            weight, *bias = tensors[f"layer.{i}.parameters"].tolist()
            matrices = (tensors[f"layer.{i}.{what}"] for what in ("inputs", "outputs", "eigenvalues"))
            blocks.append(KroneckerBlock(weight, bias[0] if bias else None, *matrices))
        return cls(tuple(blocks), diagonal)

    def to(self, device: torch.device) -> KroneckerFactor:
        """The same on a device: what another worker has left comes from main memory."""
        return KroneckerFactor.of({name: t.to(device) for name, t in self.tensors().items()})

    def kinds(self, names: Sequence[str]) -> dict[str, str]:
        """``kronecker`` or ``diagonal`` for each parameter, by name, in their order."""
        within = {place for block in self.blocks for place in block.parameters}
        return {name: "kronecker" if i in within else "diagonal" for i, name in enumerate(names)}

    def solve(self, snapshot: ModelSnapshot, damping: Sequence[float], R: Tensor) -> Tensor:
        """Applies the inverse of this curvature + λI to rows.

        Args:
            snapshot: Says how a row is divided into parameters.
            damping: λ > 0 of each parameter.
            R: ``[k, p]``; not changed.
        """
        parts = snapshot.split(R)
        solved: dict[int, Tensor] = {}
        for block in self.blocks:
            last = block.parameters[-1]
            M = block.solve(block.join(parts), damping[block.weight], damping[last])
            for place in block.parameters:
                solved[place] = block.part(M, place).reshape(parts[place].shape)
        for place, values in self.diagonal.items():
            solved[place] = parts[place] / (values + damping[place])
        return snapshot.join([solved[i] for i in range(len(parts))], batch_dims=1)
