"""Blocks of block diagonal matrices of low rank: there and back, replaced, and from bases that mix them."""

import numpy as np
import pytest
import torch

from integrators import LowRank
from integrators.blocks import Block, block_diagonal, in_blocks
from integrators.linalg import dagger, to_numpy

LIBRARIES = {"numpy": np.asarray, "torch": torch.asarray}
PLACES = [(slice(0, 9), slice(0, 7)), (slice(9, 14), slice(7, 13))]


def to(library, Y):
    return LowRank(*map(LIBRARIES[library], Y))


@pytest.mark.parametrize("library", LIBRARIES)
def test_blocks_of_a_block_diagonal_matrix(library):
    """They come back bit for bit, one can be replaced, and other bases of the same matrix give the same blocks."""
    rng = np.random.default_rng(0)
    blocks = [to(library, LowRank.random(shape, r, rng)) for shape, r in (((9, 7), 3), ((5, 6), 2))]
    Y = block_diagonal(blocks)
    assert Y.shape == (14, 13) and Y.rank == 5
    for place, block in zip(PLACES, blocks, strict=True):
        alone = Block(Y, *place).alone()
        assert all(np.array_equal(to_numpy(A), to_numpy(B)) for A, B in zip(alone, block, strict=True))
    assert in_blocks(Y, PLACES) is Y
    doubled = Block(Y, *PLACES[1]).within(blocks[1].replace(S=2 * blocks[1].S))
    np.testing.assert_allclose(to_numpy(doubled.full()[9:, 7:]), to_numpy(2 * blocks[1].full()), atol=1e-13)
    P, Q = (to(library, LowRank.random((5, 5), 5, rng)).U for _ in range(2))
    mixed = LowRank(Y.U @ P, dagger(P) @ Y.S @ Q, Y.V @ Q)
    Z = in_blocks(mixed, PLACES)
    assert [Block(Z, *place).alone().rank for place in PLACES] == [3, 2] and in_blocks(Z, PLACES) is Z
    np.testing.assert_allclose(to_numpy(Z.full()), to_numpy(Y.full()), atol=1e-13)


def test_what_is_between_the_blocks_is_left_out():
    """The largest singular values of the two blocks together; ranks beyond that are shared evenly."""
    rng = np.random.default_rng(0)
    A, B = (
        LowRank.random((9, 7), 2, rng, singular_values=[3.0, 1.0]),
        LowRank.random((5, 6), 1, rng, singular_values=[2.0]),
    )
    Y = block_diagonal([A, B])
    cut = in_blocks(Y, PLACES, 2)
    assert np.sort(np.abs(np.diag(cut.S))).round(12).tolist() == [2.0, 3.0]
    W = np.zeros((14, 13))
    W[:9, :7], W[9:, 7:], W[:9, 7:] = A.full(), B.full(), 0.1
    P, s, Q = np.linalg.svd(W)
    whole = in_blocks(LowRank(P[:, :8], np.diag(s[:8]), Q[:8].T), PLACES)
    assert [Block(whole, *place).alone().rank for place in PLACES] == [4, 4]
    W[:9, 7:] = 0.0
    np.testing.assert_allclose(whole.full(), W, atol=1e-13)
