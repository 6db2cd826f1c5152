"""The modules have the parameters that the configs promise, and can be differentiated twice."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ihvp.models.architectures import (
    ArchitectureConfig,
    CnnConfig,
    LinearConfig,
    MlpConfig,
    TransformerLmConfig,
)
from workers.architectures import build_built_in

ACTIVATIONS = ["relu", "tanh", "gelu", "sigmoid", "silu"]
widths = st.integers(1, 6)

linears = st.builds(LinearConfig, in_features=widths, out_features=widths, bias=st.booleans())
mlps = st.builds(
    MlpConfig,
    in_features=widths,
    hidden=st.lists(widths, min_size=1, max_size=4),
    out_features=widths,
    activation=st.sampled_from(ACTIVATIONS),
)
cnns = st.integers(1, 3).flatmap(
    lambda blocks: st.builds(
        CnnConfig,
        in_channels=st.integers(1, 3),
        height=st.integers(2**blocks, 13),
        width=st.integers(2**blocks, 13),
        channels=st.lists(widths, min_size=blocks, max_size=blocks),
        out_features=widths,
        activation=st.sampled_from(ACTIVATIONS),
    )
)
transformers = st.builds(
    lambda heads, per_head, **rest: TransformerLmConfig(heads=heads, width=heads * per_head, **rest),
    heads=st.integers(1, 3),
    per_head=st.integers(1, 3),
    vocabulary=st.integers(2, 9),
    context=st.integers(1, 5),
    layers=st.integers(1, 3),
    mlp_ratio=st.integers(1, 4),
)
configs = st.one_of(linears, mlps, cnns, transformers)


def an_input(config: ArchitectureConfig, rows: int) -> torch.Tensor:
    if isinstance(config, TransformerLmConfig):
        return torch.randint(0, config.vocabulary, (rows, config.context))
    shape = config.input_shape()
    assert shape is not None
    return torch.randn(rows, *shape)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_the_parameters_are_those_of_the_layout_in_its_order(config: ArchitectureConfig) -> None:
    module = build_built_in(config)
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == config.layout()
    assert not dict(module.named_buffers()), "a buffer would be one more tensor to upload"


@settings(max_examples=40, deadline=None)
@given(configs)
def test_the_outputs_have_the_promised_shape(config: ArchitectureConfig) -> None:
    outputs = build_built_in(config)(an_input(config, 3))
    if isinstance(config, TransformerLmConfig):
        assert outputs.shape == (3, config.context, config.vocabulary)
    else:
        assert outputs.shape == (3, *(config.output_shape() or ()))


def test_an_mlp_is_the_sequential_a_user_would_have_trained() -> None:
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    ours = build_built_in(MlpConfig(in_features=4, hidden=[5, 6], out_features=2, activation="tanh"))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(7, 4)
    assert torch.equal(ours(x), plain(x))


def test_a_cnn_is_the_sequential_a_user_would_have_trained() -> None:
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * 2 * 3, 5),
    )  # fmt: skip
    ours = build_built_in(CnnConfig(in_channels=2, height=9, width=13, channels=[3, 4], out_features=5))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 2, 9, 13)
    assert torch.equal(ours(x), plain(x))


def test_the_language_model_never_looks_ahead() -> None:
    config = TransformerLmConfig(vocabulary=11, context=6, width=8, heads=2, layers=2)
    model = build_built_in(config)
    ids = torch.randint(0, 11, (1, 6))
    later = ids.clone()
    later[0, 4:] = (later[0, 4:] + 1) % 11
    before, after = model(ids), model(later)
    torch.testing.assert_close(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:])


def test_the_language_model_takes_sequences_shorter_than_its_context() -> None:
    model = build_built_in(TransformerLmConfig(vocabulary=5, context=8, width=4, heads=1, layers=1))
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 5)


@pytest.mark.parametrize(
    "config",
    [
        TransformerLmConfig(vocabulary=7, context=4, width=6, heads=2, layers=2),
        CnnConfig(in_channels=1, height=4, width=4, channels=[3], out_features=2, activation="gelu"),
        MlpConfig(in_features=3, hidden=[4], out_features=2, activation="silu"),
    ],
    ids=["transformer-lm", "cnn", "mlp"],
)
def test_forward_over_reverse_equals_double_backward(config: ArchitectureConfig) -> None:
    module = build_built_in(config).double()
    x = an_input(config, 2)
    x = x.double() if x.is_floating_point() else x
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}

    def loss(current: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, current, (x,)).logsumexp(-1).square().mean()

    with sdpa_kernel(SDPBackend.MATH):
        _, forward = torch.func.jvp(torch.func.grad(loss), (parameters,), (direction,))
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
        slope = sum((g * direction[n]).sum() for n, g in zip(leaves, grads, strict=True))
        backward = torch.autograd.grad(slope, list(leaves.values()))
    for (name, product), expected in itertools.zip_longest(forward.items(), backward):
        torch.testing.assert_close(product, expected, msg=lambda text, name=name: f"{name}: {text}")
