"""A module out of an archive computes what the module does that was exported: outputs, and products with H."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, linearize

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.exports import operators
from tests.exports.programs import CASES, Inputs, logits, loss
from tests.workers.problems import put
from workers.resolvers.exported import ExportedModule, load_export

Archives = Callable[[str], Path]


@pytest.fixture
def blobs(tmp_path: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(tmp_path / "blobs")


def load(blobs: FilesystemBlobStore, path: Path, dtype: torch.dtype = torch.float64) -> ExportedModule:
    return load_export(blobs, put(blobs, path.read_bytes()), dtype)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def directions(values: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in values.items()}


def gradient(module: nn.Module, inputs: Inputs) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return torch.func.grad(lambda values: loss(functional_call(module, values, inputs)))


def joined(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.reshape(-1) for v in values.values()])


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_products_are_the_eager_modules(name: str, archive: Archives, blobs: FilesystemBlobStore) -> None:
    case = CASES[name]
    eager, loaded, inputs = case.module(), load(blobs, archive(name)), case.inputs()
    assert [(n, p.shape) for n, p in loaded.named_parameters()] == [(n, p.shape) for n, p in eager.named_parameters()]
    for count in (1, 2, 5):
        some = tuple(each[:count] for each in inputs)
        torch.testing.assert_close(loaded(*some), logits(eager(*some)), rtol=1e-13, atol=1e-13)
    values = parameters(eager)
    v = directions(values)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = joined(jvp(gradient(eager, inputs), (values,), (v,))[1])
        by_jvp = joined(jvp(gradient(loaded, inputs), (values,), (v,))[1])
        by_trace = joined(linearize(gradient(loaded, inputs), values)[1](v))
        backwards = _double_backward(loaded, inputs, v)
    for product in (by_jvp, by_trace, backwards):
        assert float((product - expected).norm() / expected.norm()) < 1e-12


def _double_backward(module: nn.Module, inputs: Inputs, v: dict[str, Tensor]) -> Tensor:
    leaves = dict(module.named_parameters())
    grads = torch.autograd.grad(loss(module(*inputs)), list(leaves.values()), create_graph=True)
    along = sum((g * v[name]).sum() for name, g in zip(leaves, grads, strict=True))
    assert isinstance(along, Tensor)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(along, list(leaves.values()))])


@pytest.mark.parametrize("name", ["stack", "reader"])
def test_a_program_solves_in_another_dtype_than_it_was_exported_in(
    name: str, archive: Archives, blobs: FilesystemBlobStore
) -> None:
    case = CASES[name]
    inputs = tuple(x.float() if x.is_floating_point() else x for x in case.inputs())
    loaded = load(blobs, archive(name), torch.float32)
    output = loaded(*inputs)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), logits(case.module()(*case.inputs())), rtol=1e-4, atol=1e-4)


def test_inputs_are_taken_by_name_and_wrong_ones_are_named(archive: Archives, blobs: FilesystemBlobStore) -> None:
    case = CASES["gated"]
    loaded, (x, gate) = load(blobs, archive("gated")), case.inputs()
    torch.testing.assert_close(loaded(gate=gate, x=x), loaded(x, gate))
    with pytest.raises(TypeError, match="x, gate"):
        loaded(x)
    loaded.check_points_apart({"x": x, "gate": gate})


def test_every_operator_on_the_list_is_torchs_and_pure() -> None:
    random = set()
    for name in operators.PURE | operators.IN_PLACE | operators.IGNORED:
        _, _, _, packet, overload = name.split(".")
        function = getattr(getattr(torch.ops.aten, packet), overload)
        written = [a.name for a in function._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        assert written == (["self"] if name in operators.IN_PLACE else []), name
        if torch.Tag.nondeterministic_seeded in function.tags:
            random.add(name)
        if name in operators.FRESH:
            assert all(r.alias_info is None for r in function._schema.returns), name
    assert random <= set(operators.RULES)
    assert operators.FRESH <= operators.PURE


def test_the_documented_list_is_the_list() -> None:
    text = (
        (Path(__file__).parents[2] / "docs/exported.md").read_text(encoding="utf-8").partition("## The operators")[2]
    )
    listed = set(re.findall(r"`([\w.]+)`", text))
    every = operators.PURE | operators.IN_PLACE | operators.SYMBOLIC | operators.IGNORED
    assert listed == {name.removeprefix("torch.ops.aten.") for name in every}
