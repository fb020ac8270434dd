"""Prototypes: centres of clusters that are plain to see, and the head of the task they choose."""

import numpy as np
import pytest

from lorakit.workflow.sequences.prototypes import centres, nearest_task
from lorakit.workflow.sequences.score_sequence import silenced

RNG = np.random.default_rng(0)
FIRST, SECOND = np.array([[0.0, 0], [10, 0]]), np.array([[5.0, 5], [0, 10]])


def rows(around):
    return np.concatenate([centre + 0.1 * RNG.standard_normal((20, 2)) for centre in around])


def test_centres_are_the_means_of_the_clusters():
    features = rows(FIRST)
    found = centres(features, 2, seed=0)
    wanted = [features[:20].mean(axis=0), features[20:].mean(axis=0)]
    assert sorted(found.tolist()) == [pytest.approx(each) for each in sorted(np.array(wanted).tolist())]
    assert len(centres(np.ones((7, 2)), 3, seed=0)) == 1


def test_the_nearest_centre_tells_the_task():
    prototypes = [centres(rows(each), 2, seed=0) for each in (FIRST, SECOND)]
    features = np.concatenate([rows(FIRST), rows(SECOND)])
    assert nearest_task([features, features], prototypes).tolist() == [0] * 40 + [1] * 40


def test_a_row_is_read_as_each_task_reads_texts():
    near, far = np.array([[5.0, 5.1]]), np.array([[5.0, 9.0]])
    assert nearest_task([near, far], [FIRST, SECOND]).tolist() == [1]
    assert nearest_task([near, far], [SECOND, FIRST]).tolist() == [0]
    assert nearest_task([FIRST[:1], far], [FIRST, SECOND]).tolist() == [0]


def test_the_chosen_head_alone_answers():
    answers = [np.array([[9.0, 8], [9, 8]]), np.array([[1.0], [2]])]
    assert np.concatenate(silenced(answers, np.array([0, 1])), axis=1).argmax(axis=1).tolist() == [0, 2]
