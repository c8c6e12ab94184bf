r"""The low-rank maps with their K-, L- and S-gradients from a single backward pass.

For a map ``y = W x`` with :math:`W = U S V^T` (rows of x are tokens: ``y = x V S^T U^T``) and the incoming gradient g,
the gradient by W is :math:`G = g^T x`. The three projections that a low-rank integrator needs are

.. math:: G V = g^T (x V), \qquad G^T U = x^T (g U), \qquad U^T G V = (g U)^T (x V),

and ``x V`` is at hand from the forward pass. Nothing is divided by S, so they are exact for S = 0 and for singular
values of any size. They are returned *in the places of the gradients by U, V and S*. Where S is not square the shapes
do not fit: pad the narrower basis with zero columns.

The gradients by x, and by ``base``, are the ordinary ones. Second derivatives are refused.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["low_rank_conv2d", "low_rank_embedding", "low_rank_linear"]


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
    return _Linear.apply(x, U, S, V, base, scale)


def low_rank_conv2d(x, U, S, V, base=None, scale=1.0, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(1, 1)):
    """Convolution with the kernel ``U S V^T`` (out, in / groups * kh * kw), times ``scale``, added to ``base``.

    It is a convolution with the r columns of V as kernels, then an r x r and an r x out map in each pixel. The number
    of groups follows from the channels of x.

    Parameters
    ----------
    x : tensor (B, in, H, W)
    U, S, V : tensors (out, r), (r, r), (in / groups * kh * kw, r)
    base : tensor (B, out, H', W'), optional
    scale : float
    stride, padding, dilation, kernel : pairs of int

    Returns
    -------
    tensor (B, out, H', W')
        Cost O(pixels (in / groups kh kw groups + out) r).
    """
    return _Conv2d.apply(x, U, S, V, base, scale, stride, padding, dilation, kernel)


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
    return _Embedding.apply(index, U, S, V, base, scale, padding_idx)


class _Linear(Function):
    @staticmethod
    def forward(ctx, x, U, S, V, base, scale):
        tokens = x.reshape(-1, x.shape[-1])
        z = tokens @ V
        w = z @ (scale * S.mT)
        if base is None:
            y = w @ U.mT
        else:
            y = torch.addmm(base.reshape(-1, base.shape[-1]), w, U.mT)
        ctx.save_for_backward(x, z, U, S, V)
        ctx.scale = scale
        return y.reshape(*x.shape[:-1], U.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, z, U, S, V = ctx.saved_tensors
        needs_x, needs_U, needs_S, needs_V, needs_base = ctx.needs_input_grad[:5]
        flat = g.reshape(-1, g.shape[-1])
        gU = flat @ U
        if ctx.scale != 1.0:
            gU, z = ctx.scale * gU, ctx.scale * z
        dx = ((gU @ S) @ V.mT).reshape(x.shape) if needs_x else None
        dK = flat.mT @ z if needs_U else None
        dS = (gU.mT @ z) / ctx.scale if needs_S else None
        dL = x.reshape(-1, x.shape[-1]).mT @ gU if needs_V else None
        return dx, dK, dS, dL, g if needs_base else None, None


class _Conv2d(Function):
    @staticmethod
    def forward(ctx, x, U, S, V, base, scale, stride, padding, dilation, kernel):
        channels = V.shape[0] // (kernel[0] * kernel[1])
        x_ = x.reshape(-1, channels, *x.shape[2:])
        z = torch.conv2d(x_, _kernels(V, channels, kernel), None, stride, padding, dilation)
        groups = x.shape[1] // channels
        # (B, group, r, pixels)
        z_ = z.reshape(x.shape[0], groups, z.shape[1], -1)
        w = (scale * S) @ z_
        y = U.reshape(groups, -1, U.shape[1]) @ w
        y = y.reshape(x.shape[0], U.shape[0], *z.shape[2:])
        ctx.save_for_backward(x, z_, U, S, V)
        ctx.settings = scale, stride, padding, dilation, kernel, z.shape
        return y if base is None else base + y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, z, U, S, V = ctx.saved_tensors
        scale, stride, padding, dilation, kernel, z_shape = ctx.settings
        needs_x, needs_U, needs_S, needs_V, needs_base = ctx.needs_input_grad[:5]
        groups, channels = z.shape[1], x.shape[1] // z.shape[1]
        g_ = scale * g.reshape(g.shape[0], groups, U.shape[0] // groups, -1)
        gU = U.reshape(groups, -1, U.shape[1]).mT @ g_
        dK = (g_ @ z.mT).sum(0).reshape(U.shape[0], -1) if needs_U else None
        dS = (gU @ z.mT).sum((0, 1)) if needs_S else None
        x_ = x.reshape(-1, channels, *x.shape[2:])
        settings = stride, padding, dilation, False, (0, 0), 1
        dL = dx = None
        if needs_V:
            out = gU.reshape(-1, U.shape[1], *z_shape[2:])
            like = V.new_empty(U.shape[1], channels, *kernel)  # only its shape counts
            _, dL, _ = torch.ops.aten.convolution_backward(out, x_, like, None, *settings, [False, True, False])
            dL = dL.reshape(U.shape[1], -1).mT
        if needs_x:
            out = (S.mT @ gU).reshape(z_shape)
            weight = _kernels(V, channels, kernel)
            dx, _, _ = torch.ops.aten.convolution_backward(out, x_, weight, None, *settings, [True, False, False])
            dx = dx.reshape(x.shape)
        return dx, dK, dS, dL, g if needs_base else None, None, None, None, None, None


def _kernels(V, channels, kernel):
    return V.mT.reshape(V.shape[1], channels, *kernel).contiguous()


class _Embedding(Function):
    @staticmethod
    def forward(ctx, index, U, S, V, base, scale, padding_idx):
        rows = U[index.reshape(-1)]
        if padding_idx is not None:
            rows = rows * (index.reshape(-1, 1) != padding_idx)
        w = rows @ (scale * S)
        if base is None:
            y = w @ V.mT
        else:
            y = torch.addmm(base.reshape(-1, base.shape[-1]), w, V.mT)
        ctx.save_for_backward(index, rows, U, V)
        ctx.scale, ctx.padding_idx = scale, padding_idx
        return y.reshape(*index.shape, V.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
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
        return None, dK, dS, dL, g if needs_base else None, None, None
