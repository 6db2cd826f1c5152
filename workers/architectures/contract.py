"""The contract of an architecture as a class of tests that a plug-in's author inherits.

::

    class TestTwoTowers(ArchitectureContract):
        plugin = our_models.two_towers
        kind = "two-towers"

        def config(self) -> dict[str, Any]:
            return {"width": 8}

        def inputs(self) -> Tensor:
            return torch.randn(6, 5)

pytest collects the tests from there. It stands in ``workers``, for it tests what a worker does: with the worker's
own loading of weights, and the solvers' own products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from ihvp.errors import IhvpError
from solvers import Problem, TorchTwiceDifferentiable
from solvers.kernels import twice_differentiable_kernels
from workers.architectures.plugins import ArchitecturePlugin, load_plugin
from workers.resolvers.weights import load_weights

__all__ = ["ArchitectureContract"]

UNKNOWN_FIELD: Final = "surely_no_field_of_this_config"
SAME_PRODUCT: Final = 1e-9
SAME_OUTPUT: Final = 1e-9
STRATEGIES: Final = ("forward", "linearized")


def _hold(condition: bool, words: str) -> None:
    # Not the statement, which -O leaves out.
    if not condition:
        raise AssertionError(words)


class ArchitectureContract:
    """What ihvp needs of an architecture. Subclass it, set two attributes and fill in two methods.

    Attributes:
        plugin: What the entry point names: a module, a class or an object with ``config`` and ``build``.
        kind: The entry point's name.
    """

    plugin: ClassVar[Any]
    kind: ClassVar[str]

    def config(self) -> dict[str, Any]:
        """A config of a small module, as a caller would send it."""
        raise NotImplementedError("return a config")

    def inputs(self) -> Tensor:
        """Some points ``[n, …]`` for it, three or more, that differ: numbers in any dtype, or token ids."""
        raise NotImplementedError("return inputs")

    def loss(self, outputs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss, averaged over the points; squared error unless this is overridden."""
        del outputs
        return nn.MSELoss()

    def targets(self, outputs: Tensor) -> Tensor:
        """Targets for the loss; near the outputs unless this is overridden."""
        generator = torch.Generator().manual_seed(3)
        return outputs + 0.1 * torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)

    # What is inherited

    def test_the_entry_point_names_the_plugin(self) -> None:
        """The package is installed, and callers who name ``kind`` get this plug-in."""
        found = load_plugin(self.kind)
        _hold(found.config is self.plugin.config, f"the entry point {self.kind!r} names another plug-in: {found!r}")
        _hold(isinstance(self.plugin, ArchitecturePlugin), "it has no 'config' and 'build'")

    def test_the_config_is_strict(self) -> None:
        """A misspelt field is an error, not a default."""
        self.plugin.config.model_validate(self.config())
        with contextlib.suppress(ValidationError):
            self.plugin.config.model_validate({**self.config(), UNKNOWN_FIELD: 1})
            raise AssertionError('an unknown field is ignored: set model_config = ConfigDict(extra="forbid")')

    def test_parameters_have_the_same_names_and_order_each_time(self) -> None:
        """Flat vectors are cut up by them."""
        first, second = ([(name, tuple(p.shape)) for name, p in self._built().named_parameters()] for _ in range(2))
        _hold(bool(first), "it has no parameters")
        _hold(first == second, f"two modules of one config differ: {first} and {second}")

    def test_weights_go_through_safetensors(self) -> None:
        """``save_file(model.state_dict())`` is what callers upload; loading it gives the same outputs."""
        trained = self._model()
        names = {n for n, _ in trained.named_parameters()} | {n for n, _ in trained.named_buffers()}
        state = {name: value.contiguous() for name, value in trained.state_dict().items() if name in names}
        other = self._built()
        load_weights(other, load(save(state)), torch.float64)
        _hold(torch.equal(self._outputs(trained), self._outputs(other)), "the outputs differ after loading")

    def test_outputs_are_one_tensor_with_a_row_a_point(self) -> None:
        """``[n, …]``, for any n."""
        model, x = self._model(), self._points()
        _hold(len(x) >= 3, "give three points or more")
        for count in (1, 2, len(x)):
            outputs = model(x[:count])
            _hold(isinstance(outputs, Tensor), f"the module returns a {type(outputs).__name__}")
            _hold(outputs.shape[:1] == (count,), f"{count} points give outputs {list(outputs.shape)}")

    def test_outputs_are_the_same_each_time(self) -> None:
        """In evaluation mode nothing is drawn."""
        model, x = self._model(), self._points()
        _hold(torch.equal(model(x), model(x)), "two calls in evaluation mode differ")

    def test_points_do_not_see_each_other(self) -> None:
        """The output for a point does not depend on its batch, or there is no loss of single points."""
        model, x = self._model(), self._points()
        together, alone = self._outputs(model), torch.cat([model(x[i : i + 1]).detach() for i in range(len(x))])
        _hold(_apart(together, alone) < SAME_OUTPUT, "points in a batch give other outputs than one by one")

    def test_it_has_second_derivatives(self) -> None:
        """Each parameter's gradient can be differentiated again, and H is finite and symmetric."""
        problem, x, y = self._problem()
        try:
            Problem(problem, [(x, y)]).hessian(expected_products=1, rows=1)
        except IhvpError as error:
            raise AssertionError(f"H cannot be had: {error}") from error
        u, v = self._direction(1), self._direction(2)
        hu, hv = self._double_backward(problem, x, y, u), self._double_backward(problem, x, y, v)
        _hold(bool(hu.isfinite().all() and hv.isfinite().all()), "a product with H is not finite")
        scale = float(hu.norm() * v.norm()) + 1e-300
        _hold(abs(float(u @ hv - v @ hu)) / scale < SAME_PRODUCT, "H is not symmetric")

    def test_products_are_those_of_double_backward(self) -> None:
        """Forward over reverse and linearised, as the solvers compute them, they are the same."""
        problem, x, y = self._problem()
        v = self._direction(1)
        expected = self._double_backward(problem, x, y, v)
        for strategy in STRATEGIES:
            found = Problem(problem, [(x, y)], strategy=strategy).hessian(expected_products=1, rows=1)(v[None])[0]
            _hold(_apart(expected, found) < SAME_PRODUCT, f"{strategy} products differ from double backward")

    def test_a_job_on_it_is_certified(self) -> None:
        """(H + λI) x = b with the Gauss-Newton H, whose certificate says converged."""
        problem, x, y = self._problem()
        b = self._direction(4)
        try:
            # Whatever the weights: with the exact H, some that were drawn at random have negative curvature.
            gauss_newton = Problem(problem, [(x, y)]).with_curvature("ggn")
            result = gauss_newton.solve("cg", b, hessian_perturbation=1.0, rtol=1e-6, atol=0.0)
        except IhvpError as error:
            raise AssertionError(f"the solver refuses it: {error}") from error
        status = result.info["certificate"][0]["status"]
        _hold(status == "converged", f"the certificate says {status}")

    # How they are made

    def _built(self) -> nn.Module:
        module = self.plugin.build(self.plugin.config.model_validate(self.config()))
        _hold(isinstance(module, nn.Module), f"build returned a {type(module).__name__}")
        found: nn.Module = module
        return found

    def _model(self) -> nn.Module:
        torch.manual_seed(0)
        return self._built().double().eval()

    def _points(self) -> Tensor:
        torch.manual_seed(1)
        x = self.inputs()
        return x.double() if x.is_floating_point() else x

    def _outputs(self, model: nn.Module) -> Tensor:
        outputs: Tensor = model(self._points())
        return outputs.detach()

    def _problem(self) -> tuple[TorchTwiceDifferentiable, Tensor, Tensor]:
        model = self._model()
        outputs = self._outputs(model)
        return TorchTwiceDifferentiable(model, self.loss(outputs)), self._points(), self.targets(outputs)

    def _direction(self, seed: int) -> Tensor:
        count = sum(p.numel() for p in self._built().parameters())
        return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    @staticmethod
    def _double_backward(problem: TorchTwiceDifferentiable, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        with twice_differentiable_kernels():
            return problem.mvp(problem.grad(x, y, create_graph=True), v, problem.parameters)


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / (first.norm() + 1e-300))
