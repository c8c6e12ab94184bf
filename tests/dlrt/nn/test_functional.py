"""The low-rank maps: values and ordinary gradients against dense torch, K-, L- and S-gradients by probes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import func
from torch.autograd import forward_ad

from dlrt.nn import low_rank_conv, low_rank_conv_transpose, low_rank_embedding, low_rank_linear


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def conv(groups, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(3, 2), size=(7, 8)):
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    torch_conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]

    def low_rank(x, U, S, V, base=None, scale=1.0):
        return low_rank_conv(x, U, S, V, base, scale, **settings, kernel=kernel)

    def dense(x, W):
        return torch_conv(x, W.reshape(W.shape[0], -1, *kernel), groups=groups, **settings)

    return low_rank, dense, gaussian(2, 2 * groups, *size), (6, 2 * math.prod(kernel))


def conv_transpose(groups, stride=(1, 1), padding=(0, 0), dilation=(1, 1), kernel=(3, 2), more=(0, 0), size=(3, 4)):
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "output_padding": more}
    torch_conv = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(kernel)]

    def low_rank(x, U, S, V, base=None, scale=1.0):
        return low_rank_conv_transpose(x, U, S, V, base, scale, **settings, kernel=kernel)

    def dense(x, W):
        return torch_conv(x, W.reshape(W.shape[0], -1, *kernel), **settings)

    return low_rank, dense, gaussian(2, 6, *size), (6, 2 * math.prod(kernel))


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
    "conv 1d": conv(1, (2,), (1,), (1,), (3,), (8,)),  # the last point is not reached
    "conv 3d": conv(2, (1, 2, 1), (0, 1, 0), (1, 1, 1), (1, 2, 2), (2, 5, 3)),
    "transposed conv": conv_transpose(1, padding=(1, 0)),
    "transposed conv groups": conv_transpose(3, (2, 3), (1, 2), (1, 2), more=(1, 2)),
    "transposed conv 1d": conv_transpose(2, (2,), (1,), (1,), (3,), (1,), (5,)),
    "transposed conv 3d": conv_transpose(1, (1, 2, 1), (0, 1, 0), (1, 1, 1), (1, 2, 2), (0, 1, 0), (2, 2, 3)),
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


def probed(dense, x, U, S, V, K, L, D):
    """The map of W and of a change of it, whose gradients at zero are the three projections."""
    return dense(x, U @ S @ V.mT + K @ V.mT + U @ L.mT + U @ D @ V.mT)


@pytest.fixture(params=[name for name in CASES if "embedding" not in name])
def continuous(request):
    """A map that has derivatives by its input, with factors and probes."""
    low_rank, dense, x, (m, n) = CASES[request.param]
    r = 2
    return low_rank, dense, x, (gaussian(m, r), gaussian(r, r), gaussian(n, r)), [gaussian(s, r) * 0 for s in (m, n, r)]


def test_derivatives_by_x_in_a_loss(continuous):
    """Forces: the projections of a loss that holds the derivative by x, of first and second order."""
    low_rank, dense, x, factors, probes = continuous
    factors, probes = [[X.clone().requires_grad_() for X in Xs] for Xs in (factors, probes)]

    def loss(y):
        x_ = x.clone().requires_grad_()
        energy = torch.sin(y(x_)).sum()
        (force,) = torch.autograd.grad(energy, x_, create_graph=True)
        (curl,) = torch.autograd.grad(torch.cos(force).sum(), x_, create_graph=True)
        return energy + force.square().sum() + torch.sin(curl).sum()

    found, expected = loss(lambda x: low_rank(x, *factors)), loss(lambda x: probed(dense, x, *factors, *probes))
    torch.testing.assert_close(found, expected)
    found.backward()
    expected = torch.autograd.grad(expected, probes)
    for factor, gradient in zip(factors, (expected[0], expected[2], expected[1]), strict=True):
        torch.testing.assert_close(factor.grad, gradient)


def test_derivatives_of_functions(continuous):
    """torch.func: Jacobians, Hessians, and a derivative by x inside one by the factors."""
    low_rank, dense, x, factors, probes = continuous
    W, x = factors[0] @ factors[1] @ factors[2].mT, x if x.ndim == 1 else x[:1]
    f, g = (lambda x: torch.sin(low_rank(x, *factors)).sum()), (lambda x: torch.sin(dense(x, W)).sum())
    torch.testing.assert_close(func.jacrev(lambda x: low_rank(x, *factors))(x), func.jacrev(lambda x: dense(x, W))(x))
    torch.testing.assert_close(func.jacrev(func.jacrev(f))(x), func.hessian(g)(x))

    def energy(factors):
        return func.grad(lambda x: torch.sin(low_rank(x, *factors)).sum())(x).square().sum()

    def probed_energy(probes):
        return func.grad(lambda x: torch.sin(probed(dense, x, *factors, *probes)).sum())(x).square().sum()

    found, expected = func.grad(energy)(factors), func.grad(probed_energy)(probes)
    for i, j in enumerate((0, 2, 1)):
        torch.testing.assert_close(found[i], expected[j])


@pytest.mark.parametrize(
    "derivative",
    [func.jacfwd, func.hessian, lambda f: func.jacrev(func.jacfwd(f)), lambda f: func.jacfwd(func.jacfwd(f))],
    ids=["first", "forward over reverse", "reverse over forward", "forward over forward"],
)
def test_forward_mode(continuous, derivative):
    low_rank, dense, x, factors, _ = continuous
    W, x = factors[0] @ factors[1] @ factors[2].mT, x if x.ndim == 1 else x[:1]
    shift = gaussian(*dense(x, W).shape)

    def sines(y, x):  # x in the base too
        return torch.sin(y(x, shift * x.square().sum())).sum()

    found = derivative(lambda x: sines(lambda x, base: low_rank(x, *factors, base, 0.7), x))(x)
    expected = derivative(lambda x: sines(lambda x, base: base + 0.7 * dense(x, W), x))(x)
    torch.testing.assert_close(found, expected)


def test_forward_mode_inside_a_loss(continuous):
    """The projections of a loss that holds the derivative along a direction."""
    low_rank, dense, x, factors, probes = continuous
    factors, probes = [[X.clone().requires_grad_() for X in Xs] for Xs in (factors, probes)]
    direction = gaussian(*x.shape, seed=3)

    def by_func(y):
        return func.jvp(lambda x: torch.sin(y(x)).sum(), (x,), (direction,))[1].square()

    def by_dual_numbers(y):
        with forward_ad.dual_level():
            dual = torch.sin(y(forward_ad.make_dual(x, direction))).sum()
            return forward_ad.unpack_dual(dual).tangent.square()

    for loss in (by_func, by_dual_numbers):
        expected = torch.autograd.grad(loss(lambda x: probed(dense, x, *factors, *probes)), probes)
        found = torch.autograd.grad(loss(lambda x: low_rank(x, *factors)), factors)
        for i, j in enumerate((0, 2, 1)):
            torch.testing.assert_close(found[i], expected[j])


def test_derivative_of_the_projections_along_x(continuous):
    """Forward over reverse: the projections of the derivative of the gradient, by torch.func and by dual numbers."""
    low_rank, dense, x, factors, probes = continuous
    factors, probes = [[X.clone().requires_grad_() for X in Xs] for Xs in (factors, probes)]
    direction = gaussian(*x.shape, seed=3)

    def gradients(x):
        return func.grad(lambda factors: torch.sin(low_rank(x, *factors)).sum())(tuple(X.detach() for X in factors))

    def probed_gradients(x):
        at = [X.detach() for X in factors]
        return func.grad(lambda probes: torch.sin(probed(dense, x, *at, *probes)).sum())(
            tuple(X.detach() for X in probes)
        )

    _, found = func.jvp(gradients, (x,), (direction,))
    _, expected = func.jvp(probed_gradients, (x,), (direction,))
    with forward_ad.dual_level():
        energy = torch.sin(low_rank(forward_ad.make_dual(x, direction), *factors)).sum()
        duals = [forward_ad.unpack_dual(g).tangent for g in torch.autograd.grad(energy, factors)]
    for i, j in enumerate((0, 2, 1)):
        torch.testing.assert_close(found[i], expected[j])
        torch.testing.assert_close(duals[i], expected[j])


def test_forward_mode_by_the_factors_is_refused(case):
    """Which would be by their entries, unlike the gradients."""
    low_rank, dense, x, (m, n) = case
    factors = [gaussian(m, 2), gaussian(2, 2), gaussian(n, 2)]
    base = gaussian(*dense(x, factors[0] @ factors[2].mT).shape)
    for i, factor in enumerate(factors):

        def of_one(X, i=i):
            return low_rank(x, *[X if j == i else Y for j, Y in enumerate(factors)], base)

        for along in (lambda f, X: func.jvp(f, (X,), (X,)), lambda f, X: func.hessian(lambda X: f(X).sum())(X)):
            with pytest.raises(RuntimeError, match="forward-mode derivatives by the factors"):
                along(of_one, factor)
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode derivatives by the factors"):
            of_one(forward_ad.make_dual(factor, factor))
    _, tangent = func.jvp(lambda base: low_rank(x, *factors, base), (base,), (2 * base,))
    torch.testing.assert_close(tangent, 2 * base)


def test_gradients_of_each_sample(case):
    low_rank, _, x, (m, n) = case
    factors = gaussian(m, 2), gaussian(2, 2), gaussian(n, 2)
    x = x[None] if x.ndim == 1 else x

    def loss(factors, x):
        return torch.sin(low_rank(x[None], *factors)).sum()

    found = func.vmap(func.grad(loss), (None, 0))(factors, x)
    for i in range(len(x)):
        for each, alone in zip(found, func.grad(loss)(factors, x[i]), strict=True):
            torch.testing.assert_close(each[i], alone)


def test_derivatives_of_the_projections_are_refused(case):
    low_rank, _, x, (m, n) = case
    factors = [X.requires_grad_() for X in (gaussian(m, 2), gaussian(2, 2), gaussian(n, 2))]
    energy = low_rank(x, *factors).square().sum()
    for gradient in torch.autograd.grad(energy, factors, create_graph=True):
        with pytest.raises(RuntimeError, match="second derivatives by the factors"):
            gradient.sum().backward(retain_graph=True)


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
