"""The counters of operations and bytes: cases that can be counted by hand."""

import gc

import pytest
import torch

from paper_figures.counters import Alive, Meter, cholesky, product, qr, svd, triangular

M, N = 12, 6


def counted(function, held=()):
    """What a function of no arguments costs."""
    with Meter("all", held) as meter:
        result = function()
    del result
    return meter.parts["all"]


@pytest.fixture
def A():
    return torch.randn(M, N, generator=torch.Generator().manual_seed(0))


def test_products_and_factorisations_have_their_formulas(A):
    G = A.T @ A
    one = torch.eye(N)
    cases = [
        (lambda: A @ G, product(M, N, N)),
        (lambda: torch.addmm(A, A, G), product(M, N, N)),
        (lambda: A.expand(3, M, N) @ G.expand(3, N, N), 3 * product(M, N, N)),
        (lambda: torch.linalg.qr(A), qr(M, N)),
        (lambda: torch.linalg.cholesky(G), cholesky(N)),
        (lambda: torch.linalg.solve_triangular(G.tril(), one, upper=False), triangular(N, N)),
        (lambda: torch.linalg.svd(A, full_matrices=False), svd(M, N)),
        (lambda: torch.linalg.svd(A.T, full_matrices=False), svd(M, N)),
    ]
    assert [counted(function).products for function, _ in cases] == [expected for _, expected in cases]


def test_formulas_agree_with_the_loops_they_sum_up():
    """QR: k-th reflection on m - k rows, 4 (m - k) (n - k) operations, again for Q; Cholesky; forward substitution."""
    m, n = 300, 90
    reflections = sum(4 * (m - k) * (n - k) for k in range(n))
    assert qr(m, n) == pytest.approx(2 * reflections, rel=2 / n)
    assert cholesky(n) == pytest.approx(sum(k * k for k in range(n)), rel=2 / n)
    assert triangular(n, 3) == 3 * sum(2 * k + 1 for k in range(n))


def test_stacks_count_each_matrix(A):
    part = counted(lambda: torch.linalg.qr(A.expand(5, M, N)))
    assert part.products == 5 * qr(M, N)
    assert part.factorisations == {f"QR {M} x {N}": 5}


def test_elementwise_operations(A):
    cases = [
        (lambda: A + A, M * N),
        (lambda: torch.add(A, A, alpha=0.5), 2 * M * N),
        (lambda: A * torch.ones(M, 1), M * N),
        (lambda: A.sum(), M * N),
        (lambda: torch.linalg.vector_norm(A), 2 * M * N),
        (lambda: torch._foreach_norm([A, A]), 4 * M * N),
        (lambda: A > 0, 0),
        (lambda: A.clone(), 0),
        (lambda: A.T, 0),
    ]
    for function, expected in cases:
        part = counted(function)
        assert (part.elementwise, part.products) == (expected, 0)


def test_backward_passes_are_seen(A):
    x = torch.ones(5, M, requires_grad=True)
    part = counted(lambda: (x @ A).sum().backward())
    assert part.products == 2 * product(5, M, N)  # y = x A, dx = g A^T


def test_bytes_alive(A):
    """Two temporaries of a chain at a time; the start is not what was made."""
    part = counted(lambda: (((A + 1) + 1) + 1).T, held=[A])
    size = 4 * M * N
    assert (part.peak, part.largest) == (3 * size, size)


def test_bytes_alone(A):
    """No formula is needed, and a new peak may be sought."""
    x = torch.ones(N)
    with Alive([A, x]) as alive:
        y = (A + 1) @ x
        assert (alive.bytes, alive.peak) == (4 * (M * N + N + M), 4 * (2 * M * N + N + M))
        alive.peak = 0
        y = y + 1
    assert (alive.bytes, alive.peak) == (4 * (M * N + N + M), 4 * (M * N + N + 2 * M))


def test_saved_tensors_are_alive_until_the_backward_pass(A):
    with Meter("forward", [A]) as meter:
        x = torch.zeros(M, N).requires_grad_()
        y = (x.exp() * A).sum()
        with meter.part("backward"):
            y.backward()
            x.grad = None
            z = torch.zeros(())  # looks at what is alive
    size = 4 * M * N
    # A, x, its exponential, and their product until it has been summed
    assert meter.parts["forward"].peak >= 4 * size
    del y, z
    gc.collect()
    assert meter.bytes == 2 * size  # A and x


def test_parts_are_kept_apart(A):
    with Meter("outer") as meter:
        A + A
        with meter.part("inner"):
            A + A
            A + A
        A + A
    assert meter.parts["outer"].elementwise == meter.parts["inner"].elementwise == 2 * M * N


def test_garbage_collection_goes_on_after_an_error():
    with pytest.raises(RuntimeError), Meter("all"):
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()


def test_linear_algebra_without_a_formula_is_refused(A):
    with pytest.raises(NotImplementedError, match="mv has no formula"):
        counted(lambda: A @ A[0])
    with pytest.raises(NotImplementedError, match="eigh has no formula"):
        counted(lambda: torch.linalg.eigh(A.T @ A))
    with pytest.raises(NotImplementedError, match="wide"):
        counted(lambda: torch.linalg.qr(A.T))
