"""Descriptions of settings: strict JSON, equal for equal settings, different for different ones."""

import json

import numpy as np
import pytest

import problems
from dlrt.runs import describe
from integrators import BUG, Adam, GeoLoRA, ProjectorSplitting, Tolerance

TARGET = problems.synthetic((12, 9), [4.0, 3.0, 2.0], np.random.default_rng(0))
REGRESSION = problems.MatrixRegression(TARGET)
STOCHASTIC = problems.completion(np.random.default_rng(1), TARGET, 0.8, batch_size=20)
EQUATION = problems.given_solution(np.random.default_rng(2), (12, 9), rank=3)


def test_descriptions_tell_settings_apart():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    eye = scipy_sparse.eye_array(3).tocsr()
    things = [None, True, 1, 1.0, "1", float("nan"), 1j, [1, 2], {"a": 1}, TARGET, 2 * TARGET, eye, 2 * eye]
    things += [BUG(), GeoLoRA(), GeoLoRA(optimizer=Adam()), GeoLoRA(truncation=Tolerance(relative=0.2)), np.sin]
    things += [ProjectorSplitting(), ProjectorSplitting(order=2), REGRESSION, STOCHASTIC, EQUATION, np.float32]
    texts = [json.dumps(describe(thing), allow_nan=False) for thing in things]
    assert len(set(texts)) == len(texts)
    assert json.loads(texts[-3]) == describe(STOCHASTIC)
    assert describe(np.float64(0.5)) == 0.5 and describe(np.int64(2)) == 2
