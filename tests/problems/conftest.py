"""Assertions in the shared contracts are explained like those of the tests."""

import pytest

pytest.register_assert_rewrite("tests.problems.contract")
