r"""The low-rank maps with their K-, L- and S-gradients from a single backward pass.

For a map ``y = W x`` with :math:`W = U S V^T` (rows of x are tokens: ``y = x V S^T U^T``) and the incoming gradient g,
the gradient by W is :math:`G = g^T x`. The three projections that a low-rank integrator needs are

.. math:: G V = g^T (x V), \qquad G^T U = x^T (g U), \qquad U^T G V = (g U)^T (x V),

and ``x V`` is at hand from the forward pass. Nothing is divided by S, so they are exact for S = 0 and for singular
values of any size. They are returned *in the places of the gradients by U, V and S*. Where S is not square the shapes
do not fit: pad the narrower basis with zero columns.

The gradients by x, and by ``base``, are the ordinary ones. The gradient by x is again a low-rank map, the adjoint one
applied to g, with the same three projections; so derivatives by x of any order can be part of a loss. A convolution and
the transposed convolution of the same matrix are each other's adjoints. Forward-mode derivatives along x and ``base``
(``torch.func.jvp``, ``jacfwd``, ``hessian``, dual numbers) are there too, in any order with the others. Derivatives of
the projections themselves (Hessians by the factors), and forward-mode derivatives along the factors, which would be
those by their entries, are refused.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch.autograd import Function, forward_ad

NOT_BY_FACTORS = (
    "forward-mode derivatives by the factors of a low-rank layer are not possible: they would be by the entries of U, "
    "S and V, while gradients are those by K = U S, S and L = V S^T (by the input all derivatives are possible)"
)

__all__ = ["low_rank_conv", "low_rank_conv_transpose", "low_rank_embedding", "low_rank_linear"]


def low_rank_linear(x, U, S, V, base=None, scale=1.0):
    """Linear map of ``U S V^T``: ``base + scale x V S^T U^T``.

    Parameters
    ----------
    x : tensor (..., n)
    U, S, V : tensors (m, r), (r, r), (n, r)
    base : tensor (..., m), optional
    scale : float

    Returns
    -------
    tensor (..., m)
        Cost O(tokens (m + n) r).
    """
    return _apply(_Linear, x, U, S, V, base, scale)[0]


def low_rank_conv(x, U, S, V, base=None, scale=1.0, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(1, 1)):
    """Convolution with the kernel ``U S V^T`` (out, in / groups * k1 * k2 ...), times ``scale``, added to ``base``.

    It is a convolution with the r columns of V as kernels, then an r x r and an r x out map in each pixel. The number
    of groups follows from the channels of x.

    Parameters
    ----------
    x : tensor (B, in, H, W)
        With one, two or three dimensions of pixels.
    U, S, V : tensors (out, r), (r, r), (in / groups * kh * kw, r)
    base : tensor (B, out, H', W'), optional
    scale : float
    stride, padding, dilation, kernel : tuples of int
        One for each dimension of pixels.

    Returns
    -------
    tensor (B, out, H', W')
        Cost O(pixels (in / groups kh kw groups + out) r).
    """
    groups = x.shape[1] * math.prod(kernel) // V.shape[0]
    return _apply(_Conv, x, U, S, V, base, scale, groups, *stride, *padding, *dilation, *kernel)[0]


def low_rank_conv_transpose(
    x, U, S, V, base=None, scale=1.0, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(1, 1), groups=1,
    output_padding=(0, 0),
):  # fmt: skip
    """Transposed convolution with the kernel ``U S V^T`` (in, out / groups * k1 * k2 ...), added to ``base``.

    The adjoint of :func:`low_rank_conv` for the same matrix: an in x r and an r x r map in each pixel, then a
    transposed convolution with the r columns of V.

    Parameters
    ----------
    x : tensor (B, in, H, W)
    U, S, V : tensors (in, r), (r, r), (out / groups * kh * kw, r)
    base : tensor (B, out, H', W'), optional
    scale : float
    stride, padding, dilation, kernel, groups, output_padding
        As in torch, tuples with an int for each dimension of pixels.

    Returns
    -------
    tensor (B, out, H', W')
    """
    settings = *stride, *padding, *dilation, *kernel, *output_padding
    return _apply(_ConvTranspose, x, U, S, V, base, scale, groups, *settings)[0]


def low_rank_embedding(index, U, S, V, base=None, scale=1.0, padding_idx=None):
    """Rows ``index`` of ``U S V^T`` (zero for ``padding_idx``), times ``scale``, added to ``base``.

    Parameters
    ----------
    index : integer tensor (...)
    U, S, V : tensors (num, r), (r, r), (dim, r)
    base : tensor (..., dim), optional
    scale : float
    padding_idx : int, optional

    Returns
    -------
    tensor (..., dim)
        Cost O(tokens dim r).
    """
    return _apply(_Embedding, index, U, S, V, base, scale, padding_idx)[0]


class _Differentiable(Function):
    """A function of torch with two forms, the other one with forward-mode derivatives too.

    torch.compile could not trace that form, and it keeps tensors as long as there is a graph: it is used where forward
    mode is on.
    """

    generate_vmap_rule = True
    in_forward_mode: Any

    def __init_subclass__(cls):
        if "jvp" not in vars(cls):
            rule = {"jvp": staticmethod(cls.along)}
            cls.in_forward_mode = type(f"{cls.__name__}InForwardMode", (cls,), rule)

    @staticmethod
    def along(ctx, *tangents):
        """Tangents of the outputs from those of the inputs, None where there is none."""
        raise TypeError("a function must define along(ctx, *tangents)")


def _is_forward_mode() -> bool:
    """Whether forward-mode derivatives are taken, by torch.func or torch.autograd.forward_ad."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def _apply(function, *arguments):
    return (function.in_forward_mode if _is_forward_mode() else function).apply(*arguments)


class _Map(_Differentiable):
    """Each of the four maps: its outputs are y and the product with the first basis, which the backward pass needs."""

    def __init_subclass__(cls):
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]  # torch asks at each call
        super().__init_subclass__()

    @staticmethod
    def _keep(ctx, inputs, *tensors):
        """For derivatives."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        if _is_forward_mode():
            ctx.save_for_forward(*tensors)  # not fewer: torch.func has one list for both
            ctx.rest = inputs[5:]

    @classmethod
    def along(cls, ctx, dx, dU, dS, dV, dbase, *_):
        """The maps are linear in (x, base) together: the derivative is the map of the tangents."""
        if any(X is not None for X in (dU, dS, dV)):
            raise RuntimeError(NOT_BY_FACTORS)
        if dx is None:
            return dbase, torch.zeros_like(ctx.saved_tensors[1])
        return _apply(cls, dx, *ctx.saved_tensors[2:], dbase, *ctx.rest)


class _Linear(_Map):
    @staticmethod
    def forward(x, U, S, V, base, scale):
        tokens = x.reshape(-1, x.shape[-1])
        z = tokens @ V
        w = z @ (scale * S.mT)
        if base is None:
            y = w @ U.mT
        else:
            y = torch.addmm(base.reshape(-1, base.shape[-1]), w, U.mT)
        return y.reshape(*x.shape[:-1], U.shape[0]), z

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, U, S, V, _, ctx.scale = inputs
        _Map._keep(ctx, inputs, x, output[1], U, S, V)

    @staticmethod
    def backward(ctx, g, _):
        if g is None:
            return (None,) * len(ctx.needs_input_grad)
        x, z, U, S, V = ctx.saved_tensors
        needs_x, needs_U, needs_S, needs_V, needs_base = ctx.needs_input_grad[:5]
        flat = g.reshape(-1, g.shape[-1])
        dx = None
        if needs_x and torch.is_grad_enabled():  # the adjoint is the map of W^T
            dx, gU = _apply(_Linear, g, V, S.mT, U, None, ctx.scale)
        else:
            gU = flat @ U
        if ctx.scale != 1.0:
            gU, z = ctx.scale * gU, ctx.scale * z
        if needs_x and dx is None:
            dx = ((gU @ S) @ V.mT).reshape(x.shape)
        dK = flat.mT @ z if needs_U else None
        dS = (gU.mT @ z) / ctx.scale if needs_S else None
        dL = x.reshape(-1, x.shape[-1]).mT @ gU if needs_V else None
        return dx, *_final(dK, dS, dL), g if needs_base else None, *_nothing(ctx)


class _Conv(_Map):
    @staticmethod
    def forward(x, U, S, V, base, scale, groups, *settings):
        stride, padding, dilation, kernel = _parts(settings, 4)
        x_ = x.reshape(-1, x.shape[1] // groups, *x.shape[2:])
        z = torch.convolution(x_, _kernels(V, kernel), None, stride, padding, dilation, False, [0] * len(kernel), 1)
        z_ = z.reshape(x.shape[0], groups, U.shape[1], -1)  # (B, group, r, pixels)
        w = (scale * S) @ z_
        y = U.reshape(groups, -1, U.shape[1]) @ w
        y = y.reshape(x.shape[0], U.shape[0], *z.shape[2:])
        return y if base is None else base + y, z_

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, U, S, V, _, ctx.scale, ctx.groups, *ctx.settings = inputs
        _Map._keep(ctx, inputs, x, output[1], U, S, V)

    @staticmethod
    def backward(ctx, g, _):
        if g is None:
            return (None,) * len(ctx.needs_input_grad)
        x, z, U, S, V = ctx.saved_tensors
        needs_x, *needs, needs_base = ctx.needs_input_grad[:5]
        if needs_x:
            settings = *ctx.settings, *_left_over(x.shape[2:], g.shape[2:], *_parts(ctx.settings, 4))
            dx, gU = _adjoint(_ConvTranspose, g, U, S, V, None, ctx.scale, ctx.groups, *settings)
        else:
            dx, gU = None, U.reshape(ctx.groups, -1, U.shape[1]).mT @ _grouped(g, ctx.groups)
        projections = _conv_projections(needs, ctx.scale, ctx.groups, ctx.settings, g, gU, x, z, V)
        return dx, *projections, g if needs_base else None, *_nothing(ctx)


class _ConvTranspose(_Map):
    @staticmethod
    def forward(x, U, S, V, base, scale, groups, *settings):
        stride, padding, dilation, kernel, more = _parts(settings, 5)
        xU = U.reshape(groups, -1, U.shape[1]).mT @ _grouped(x, groups)  # (B, group, r, pixels)
        w = ((scale * S.mT) @ xU).reshape(-1, V.shape[1], *x.shape[2:])
        y = torch.convolution(w, _kernels(V, kernel), None, stride, padding, dilation, True, more, 1)
        y = y.reshape(x.shape[0], -1, *y.shape[2:])
        return y if base is None else base + y, xU

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, U, S, V, _, ctx.scale, ctx.groups, *settings = inputs
        ctx.settings = settings[: len(settings) // 5 * 4]
        _Map._keep(ctx, inputs, x, output[1], U, S, V)

    @staticmethod
    def backward(ctx, g, _):
        if g is None:
            return (None,) * len(ctx.needs_input_grad)
        x, xU, U, S, V = ctx.saved_tensors
        needs_x, *needs, needs_base = ctx.needs_input_grad[:5]
        dx, z = _adjoint(_Conv, g, U, S, V, None, ctx.scale, ctx.groups, *ctx.settings)
        projections = _conv_projections(needs, ctx.scale, ctx.groups, ctx.settings, x, xU, g, z, V)
        return dx if needs_x else None, *projections, g if needs_base else None, *_nothing(ctx)


class _Embedding(_Map):
    @staticmethod
    def forward(index, U, S, V, base, scale, padding_idx):
        rows = U[index.reshape(-1)]
        if padding_idx is not None:
            rows = rows * (index.reshape(-1, 1) != padding_idx)
        w = rows @ (scale * S)
        if base is None:
            y = w @ V.mT
        else:
            y = torch.addmm(base.reshape(-1, base.shape[-1]), w, V.mT)
        return y.reshape(*index.shape, V.shape[0]), rows

    @staticmethod
    def setup_context(ctx, inputs, output):
        index, U, _, V, _, ctx.scale, ctx.padding_idx = inputs
        _Map._keep(ctx, inputs, index, output[1], U, V)

    @staticmethod
    def backward(ctx, g, _):
        if g is None:
            return (None,) * len(ctx.needs_input_grad)
        index, rows, U, V = ctx.saved_tensors
        _, needs_U, needs_S, needs_V, needs_base = ctx.needs_input_grad[:5]
        flat = ctx.scale * g.reshape(-1, g.shape[-1])
        dK = dS = None
        if needs_U or needs_S:
            gV = flat @ V
            if ctx.padding_idx is not None:
                gV = gV * (index.reshape(-1, 1) != ctx.padding_idx)
            dK = torch.zeros_like(U).index_add(0, index.reshape(-1), gV) if needs_U else None
            dS = rows.mT @ gV if needs_S else None
        dL = flat.mT @ rows if needs_V else None
        return None, *_final(dK, dS, dL), g if needs_base else None, *_nothing(ctx)


def _adjoint(map, *arguments):
    """The map, differentiable where this backward pass is to be differentiated."""
    return _apply(map, *arguments) if torch.is_grad_enabled() else map.forward(*arguments)


def _grouped(y, groups):
    """(B, channels, ...) as (B, groups, channels / groups, pixels)."""
    return y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)


def _kernels(V, kernel):
    """The columns of V as kernels (r, channels, k1, k2, ...)."""
    return V.mT.reshape(V.shape[1], -1, *kernel).contiguous()


def _parts(settings, count) -> Any:
    """Settings of a convolution, handed over in a row, since torch.func takes tuples apart."""
    size = len(settings) // count
    return [tuple(settings[i * size : (i + 1) * size]) for i in range(count)]


def _nothing(ctx):
    """No gradients by the scale and what comes after it."""
    return (None,) * (len(ctx.needs_input_grad) - 5)


def _left_over(size, output, stride, padding, dilation, kernel):
    """Pixels at the end that a convolution from ``size`` to ``output`` does not reach."""
    return tuple(
        n - ((k - 1) * s - 2 * p + d * (width - 1) + 1)
        for n, k, s, p, d, width in zip(size, output, stride, padding, dilation, kernel, strict=True)
    )


def _conv_projections(needs, scale, groups, settings, g, gU, x, z, V):
    """G V, U^T G V and G^T U from g (the side of U) and x (the side of V), and their products with the bases."""
    stride, padding, dilation, kernel = _parts(settings, 4)
    g_ = _grouped(g, groups)
    dK = scale * (g_ @ z.mT).sum(0).reshape(g.shape[1], -1) if needs[0] else None
    dS = scale * (gU @ z.mT).sum((0, 1)) if needs[1] else None
    dL = None
    if needs[2]:
        out = (scale * gU).reshape(-1, V.shape[1], *g.shape[2:])
        x_ = x.reshape(-1, x.shape[1] // groups, *x.shape[2:])
        like = V.new_empty(V.shape[1], x_.shape[1], *kernel)  # only its shape counts
        where = stride, padding, dilation, False, [0] * len(kernel), 1
        _, dL, _ = torch.ops.aten.convolution_backward(out, x_, like, None, *where, [False, True, False])
        dL = dL.reshape(V.shape[1], -1).mT
    return _final(dK, dS, dL)


class _Final(_Differentiable):
    """Results that have no derivative by the factors."""

    @staticmethod
    def forward(*tensors):
        return tuple(X.clone() for X in tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "second derivatives by the factors of a low-rank layer are not possible: the gradients of U, S and V are "
            "those by K = U S, S and L = V S^T (derivatives by the input are possible, of any order)"
        )

    @staticmethod
    def along(ctx, *tangents):
        """Tangents come from those of inputs alone."""
        return tangents


def _final(*tensors):
    """Gradients in the places of U, S and V, guarded where this backward pass is to be differentiated."""
    present = [X for X in tensors if X is not None]
    if not present or not torch.is_grad_enabled():
        return tensors
    guarded = iter(_apply(_Final, *present))
    return tuple(None if X is None else next(guarded) for X in tensors)
