"""The three low-rank maps: values and ordinary gradients against dense torch, K-, L- and S-gradients by probes."""

import pytest
import torch
import torch.nn.functional as F

from dlrt.nn import low_rank_conv2d, low_rank_embedding, low_rank_linear


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def conv(groups, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(3, 2)):
    settings = {"stride": stride, "padding": padding, "dilation": dilation}

    def low_rank(x, U, S, V, base=None, scale=1.0):
        return low_rank_conv2d(x, U, S, V, base, scale, **settings, kernel=kernel)

    def dense(x, W):
        return F.conv2d(x, W.reshape(W.shape[0], -1, *kernel), groups=groups, **settings)

    return low_rank, dense, gaussian(2, 2 * groups, 7, 8), (6, 2 * kernel[0] * kernel[1])


def linear(m, n, *leading):
    return low_rank_linear, F.linear, gaussian(*leading, n), (m, n)


def embedding(padding_idx):
    index = torch.tensor([[0, 3, 3], [2, 8, 1]])

    def low_rank(x, U, S, V, base=None, scale=1.0):
        return low_rank_embedding(x, U, S, V, base, scale, padding_idx)

    def dense(x, W):
        return W[x] if padding_idx is None else W[x] * (x != padding_idx)[..., None]

    return low_rank, dense, index, (9, 5)


CASES = {
    "wide": linear(4, 7, 5),
    "tall": linear(7, 4, 2, 3),
    "square": linear(5, 5, 2, 1, 3),
    "one token": linear(4, 6),
    "conv": conv(1),
    "conv groups": conv(3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "embedding": embedding(None),
    "embedding padding": embedding(3),
}
STARTS = {"generic": lambda r: gaussian(r, r), "zero": lambda r: torch.zeros(r, r, dtype=torch.float64)}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_values_and_projected_gradients(case, start, scale):
    """f(W + K V^T + U L^T + U D V^T) has the K-, L- and S-gradients by K, L and D."""
    low_rank, dense, x, (m, n) = case
    r = 3
    U, S, V = gaussian(m, r), STARTS[start](r), gaussian(n, r)
    factors = [X.clone().requires_grad_() for X in (U, S, V)]
    y = low_rank(x, *factors, scale=scale)
    c = gaussian(*y.shape, seed=5)
    torch.sum(torch.sin(y + c)).backward()

    K, L, D = (torch.zeros(s, r, dtype=torch.float64, requires_grad=True) for s in (m, n, r))
    probed = dense(x, scale * (U @ S @ V.mT + K @ V.mT + U @ L.mT + U @ D @ V.mT))
    torch.testing.assert_close(y, probed)
    torch.sum(torch.sin(probed + c)).backward()
    for factor, probe in zip(factors, (K, D, L), strict=True):
        torch.testing.assert_close(factor.grad, probe.grad)


def test_gradcheck_in_x_S_and_base(case):
    low_rank, dense, x, (m, n) = case
    U, S, V = gaussian(m, 2), gaussian(2, 2), gaussian(n, 2)
    base = gaussian(*dense(x, U @ V.mT).shape).requires_grad_()
    S.requires_grad_()
    if x.is_floating_point():
        x = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: low_rank(x, U, S, V, base, 0.7), [x])
    assert torch.autograd.gradcheck(lambda S, base: low_rank(x, U, S, V, base, 0.7), [S, base])


def test_only_what_is_asked_for(case):
    low_rank, _, x, (m, n) = case
    U, S, V = gaussian(m, 2), gaussian(2, 2).requires_grad_(), gaussian(n, 2)
    low_rank(x, U, S, V).sum().backward()
    assert S.grad is not None
    assert U.grad is None and V.grad is None


def test_second_derivatives_are_refused():
    U, S, V = (X.requires_grad_() for X in (gaussian(4, 2), gaussian(2, 2), gaussian(5, 2)))
    x = gaussian(3, 5).requires_grad_()
    (dx,) = torch.autograd.grad(low_rank_linear(x, U, S, V).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_a_wider_basis_padded_with_zeros():
    """Where S is not square the narrower basis is padded, and the gradients of the true part are as they were."""
    x, U, S, V = gaussian(6, 7), gaussian(5, 2), gaussian(2, 3), gaussian(7, 3)
    W = (U @ S @ V.mT).requires_grad_()
    c = gaussian(6, 5)
    (F.linear(x, W) * c).sum().backward()
    G = W.grad
    padded = F.pad(U, (0, 1)), F.pad(S, (0, 0, 0, 1)), V.clone()
    for X in padded:
        X.requires_grad_()
    (low_rank_linear(x, *padded) * c).sum().backward()
    torch.testing.assert_close(padded[0].grad, G @ V)
    torch.testing.assert_close(padded[1].grad[:2], U.mT @ G @ V)
    torch.testing.assert_close(padded[2].grad[:, :2], G.mT @ U)
