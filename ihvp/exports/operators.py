"""The operators that an exported program may use: pure functions of their arguments, and nothing else.

None of them reads files, draws random numbers, returns uninitialised memory or writes into what it was given; the few
that write in place are accepted where what they write into was made by the program itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["FRESH", "IGNORED", "IN_PLACE", "PURE", "RULES", "SYMBOLIC", "Rule"]

ATEN: Final = "torch.ops.aten."


def _names(text: str) -> frozenset[str]:
    return frozenset(ATEN + name for name in text.split())


PURE: Final = _names(
    """
    alias.default broadcast_to.default chunk.default contiguous.default detach.default diagonal.default dropout.default
    expand.default expand_as.default flatten.using_ints lift_fresh_copy.default movedim.int movedim.intlist mT.default
    narrow.default numpy_T.default permute.default reshape.default reshape_as.default select.int slice.Tensor
    split.Tensor split.sizes split_with_sizes.default squeeze.default squeeze.dim squeeze.dims swapaxes.default
    t.default to.device to.dtype to.dtype_layout to.other transpose.int type_as.default unbind.int unflatten.int
    unfold.default unsqueeze.default view.default view_as.default _unsafe_view.default
    _adaptive_avg_pool2d.default _log_softmax.default _native_batch_norm_legit_no_training.default _softmax.default
    _to_copy.default abs.default acos.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
    adaptive_avg_pool3d.default add.Scalar add.Tensor addbmm.default addcdiv.default addcmul.default addmm.default
    addmv.default all.default all.dim amax.default amin.default any.default any.dim arange.default arange.start
    arange.start_step argmax.default argmin.default asin.default atan.default atan2.default avg_pool1d.default
    avg_pool2d.default avg_pool3d.default baddbmm.default batch_norm.default bilinear.default bitwise_and.Scalar
    bitwise_and.Tensor bitwise_not.default bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Tensor bmm.default
    cat.default ceil.default celu.default clamp.Tensor clamp.default clamp_max.default clamp_min.default clone.default
    concat.default concatenate.default constant_pad_nd.default conv1d.default conv1d.padding conv2d.default
    conv2d.padding conv3d.default conv3d.padding conv_transpose1d.default conv_transpose2d.input
    conv_transpose3d.input convolution.default copysign.Tensor cos.default cosh.default cosine_similarity.default
    cumprod.default cumsum.default div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode divide.Tensor dot.default
    einsum.default elu.default embedding.default eq.Scalar eq.Tensor erf.default erfc.default exp.default exp2.default
    expm1.default eye.default eye.m flip.default floor.default floor_divide.default fmod.Scalar fmod.Tensor
    frobenius_norm.dim full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default glu.default
    greater.Scalar greater.Tensor group_norm.default gt.Scalar gt.Tensor hardsigmoid.default hardswish.default
    hardtanh.default hypot.default index.Tensor index_select.default instance_norm.default isfinite.default
    isinf.default isnan.default layer_norm.default le.Scalar le.Tensor leaky_relu.default lerp.Scalar lerp.Tensor
    less.Tensor linalg_norm.default linalg_vector_norm.default linear.default linspace.default log.default
    log10.default log1p.default log2.default log_sigmoid.default log_softmax.int logaddexp.default
    logical_and.default logical_not.default logical_or.default logical_xor.default logsumexp.default lt.Scalar
    lt.Tensor masked_fill.Scalar masked_fill.Tensor masked_select.default matmul.default max.default max.dim max.other
    max_pool1d.default max_pool2d.default max_pool2d_with_indices.default max_pool3d.default maximum.default
    mean.default mean.dim min.default min.dim min.other minimum.default mish.default mm.default
    mul.Scalar mul.Tensor multiply.Tensor mv.default native_group_norm.default native_layer_norm.default ne.Scalar
    ne.Tensor neg.default new_full.default new_ones.default new_zeros.default norm.ScalarOpt_dim
    one_hot.default ones.default ones_like.default outer.default pad.default pixel_shuffle.default
    pixel_unshuffle.default pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor prelu.default prod.default prod.dim_int
    reciprocal.default reflection_pad1d.default reflection_pad2d.default relu.default relu6.default
    remainder.Scalar remainder.Tensor repeat.default repeat_interleave.self_int replication_pad1d.default
    replication_pad2d.default rms_norm.default roll.default round.default rsqrt.default rsub.Scalar rsub.Tensor
    scalar_tensor.default scaled_dot_product_attention.default scatter.src scatter.value scatter_add.default
    selu.default sigmoid.default sign.default silu.default sin.default sinh.default softmax.int softplus.default
    softshrink.default sqrt.default square.default stack.default std.correction std.dim sub.Scalar sub.Tensor
    subtract.Tensor sum.default sum.dim_IntList tan.default tanh.default threshold.default tile.default
    topk.default tril.default triu.default true_divide.Tensor trunc.default upsample_bilinear2d.vec
    upsample_nearest2d.vec var.correction var.dim var_mean.correction where.ScalarOther where.ScalarSelf where.self
    zeros.default zeros_like.default
    """
)

"""What only computes. Some return a view of an argument, or an argument itself."""

FRESH: Final = _names(
    """
    add.Scalar add.Tensor addmm.default arange.default arange.start avg_pool2d.default batch_norm.default
    bitwise_not.default bmm.default cat.default clone.default conv1d.default conv2d.default conv3d.default
    conv_transpose1d.default conv_transpose2d.input convolution.default div.Scalar div.Tensor embedding.default
    full.default full_like.default gelu.default group_norm.default layer_norm.default linear.default
    masked_fill.Scalar matmul.default max_pool2d.default mm.default mul.Scalar mul.Tensor ones.default
    ones_like.default relu.default sigmoid.default silu.default softmax.int stack.default sub.Scalar sub.Tensor
    tanh.default where.self zeros.default zeros_like.default
    """
)
"""Those whose result is memory of its own, which the program may then write into."""

IN_PLACE: Final = _names(
    """
    add_.Scalar add_.Tensor clamp_.default clamp_min_.default div_.Scalar div_.Tensor elu_.default exp_.default
    hardswish_.default hardtanh_.default leaky_relu_.default masked_fill_.Scalar masked_fill_.Tensor mul_.Scalar
    mul_.Tensor neg_.default relu_.default relu6_.default selu_.default sigmoid_.default silu_.default sub_.Scalar
    sub_.Tensor tanh_.default
    """
)
"""What writes into its first argument and returns it."""

SYMBOLIC: Final = frozenset(
    {
        "torch.ops.aten.sym_size.int",
        "torch.ops.aten.sym_numel.default",
        *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg")),
    }
)
"""Whole numbers worked out of sizes."""

IGNORED: Final = _names(
    "_assert_async.msg _assert_scalar.default _assert_tensor_metadata.default sym_constrain_range.default "
    "sym_constrain_range_for_size.default"
)
"""What the program asserts of sizes and dtypes: an operator that cannot take them says so itself."""

Rule = Callable[[Callable[[int, str], Any]], str | None]
"""Says what is wrong with an operator's arguments, which it asks for by place and name; None where nothing is."""


def _must_be_off(position: int, name: str, words: str) -> Rule:
    return lambda argument: words if argument(position, name) else None


def _own_statistics(argument: Callable[[int, str], Any]) -> str | None:
    keeps = argument(3, "running_mean") is not None or argument(4, "running_var") is not None
    return "updates its running statistics" if keeps and argument(5, "use_input_stats") else None


_TRAINING: Final = "was exported in training mode"
RULES: Final[dict[str, Rule]] = {
    ATEN + "dropout.default": _must_be_off(2, "train", _TRAINING),
    ATEN + "batch_norm.default": _must_be_off(5, "training", _TRAINING),
    ATEN + "scaled_dot_product_attention.default": _must_be_off(4, "dropout_p", "drops at random"),
    ATEN + "instance_norm.default": _own_statistics,
}
"""Arguments under which an operator of the list would draw random numbers, or write into a buffer."""
