"""Ranking metrics against pairs counted one by one, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.workloads.multitask import ranking
from tests.reference import ranking as reference

# Few scores and users: ties and users of one class are common.
EXAMPLES = st.lists(
    st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 3)), max_size=30
)


def columns(examples):
    score, label, user = zip(*examples, strict=True) if examples else ((),) * 3
    return [float(s) for s in score], [int(y) for y in label], list(user)


@given(EXAMPLES)
def test_auc_counts_pairs(examples):
    score, label, _ = columns(examples)
    desired = reference.auc(score, label)
    np.testing.assert_allclose(ranking.auc(score, label), desired, rtol=1e-12)


@given(EXAMPLES, st.booleans())
def test_gauc_counts_pairs_of_each_user(examples, weighted):
    score, label, user = columns(examples)
    actual = ranking.gauc(score, label, user, weighted=weighted)
    desired = reference.gauc(score, label, user, weighted)
    np.testing.assert_allclose(actual, desired, rtol=1e-12)


def test_gauc_by_hand():
    # User 1, positives at .9, .7, .6, negatives at .8, .5: 4 of 6 pairs are
    # right. User 2, positives at .9, .6: 2 of 4. User 3 has one class.
    user = [2] * 4 + [1] * 5 + [3] * 2
    label = [1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    score = [0.9, 0.8, 0.7, 0.6, 0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.2]
    actual = ranking.gauc(score, label, user)
    np.testing.assert_allclose(actual, (4 / 6 + 2 / 4) / 2, rtol=1e-12)
    np.testing.assert_allclose(actual, 0.5833333, atol=1e-7)
    actual = ranking.gauc(score, label, user, weighted=True)
    np.testing.assert_allclose(actual, (5 * 4 / 6 + 4 * 2 / 4) / 9, rtol=1e-12)
    np.testing.assert_allclose(actual, 0.5925926, atol=1e-7)


@pytest.mark.parametrize('constant', [0.0, 0.3, -1e30])
def test_constant_score_is_a_half(constant):
    label = np.arange(7) < 2
    assert ranking.auc(np.full(7, constant), label) == 0.5


@pytest.mark.parametrize('label', [[], [0, 0, 0], [1, 1, 1]])
def test_one_class_is_absent(label):
    score = np.arange(len(label))
    assert math.isnan(ranking.auc(score, label))
    assert math.isnan(ranking.gauc(score, label, score))


def test_ranks_do_not_depend_on_precision():
    # Logits a float32 tells apart though their sigmoids are all 1.
    score = np.float32([100.0, 101.0, 102.0])
    assert ranking.auc(score, [0, 1, 1]) == 1.0
    # Users that a float64 does not tell apart.
    user = [2**60, 2**60, 2**60 + 1, 2**60 + 1]
    assert ranking.gauc([1.0, 2.0, 4.0, 3.0], [0, 1, 0, 1], user) == 0.5


def test_many_examples_in_one_sort():
    # Scores 0 .. n - 1 of which the odd are positive: positive 2 k + 1 is
    # above the k + 1 negatives up to 2 k, so AUC = sum (k + 1) / h², k < h.
    half = 200_000
    score = np.arange(2 * half)
    actual = ranking.auc(score, score % 2)
    np.testing.assert_allclose(actual, (half + 1) / (2 * half), rtol=1e-12)


def test_log_loss_by_hand():
    # log(1 + e^0) = log 2 of either label; log(1 + e^log 3) - log 3 = log 4/3.
    actual = ranking.log_loss([0.0, 0.0, math.log(3)], [0, 1, 1])
    desired = (2 * math.log(2) + math.log(4 / 3)) / 3
    np.testing.assert_allclose(actual, desired, rtol=1e-12)
    # Classes of probabilities 1/2, 1/4, 1/4, at any offset.
    logits = np.log([[2, 1, 1], [2, 1, 1]]) + np.array([[0.0], [1000.0]])
    actual = ranking.log_loss(logits, [0, 2])
    np.testing.assert_allclose(actual, 1.5 * math.log(2), rtol=1e-10)


def test_log_loss_is_stable():
    assert ranking.log_loss([1000.0, -1000.0], [1, 0]) == 0.0
    assert ranking.log_loss([1000.0, -1000.0], [0, 1]) == 1000.0
    assert ranking.log_loss([[1000.0, -1000.0]], [1]) == 2000.0


def test_means_by_hand():
    # Errors 1, -2 and 0.
    assert ranking.mse([1.0, 2.0, 3.0], [0.0, 4.0, 3.0]) == 5 / 3
    # Logits above 0 are of the positive class.
    assert ranking.accuracy([1.0, -1.0, 2.0, -3.0], [1, 1, 1, 0]) == 0.75
    logits = [[0.0, 1.0, 0.5], [3.0, 1.0, 2.0]]
    assert ranking.accuracy(logits, [1, 2]) == 0.5
    # 0.6 predicted for 0.5.
    assert ranking.calibration([0.4, 0.8], [0, 1]) == pytest.approx(1.2)
    assert math.isnan(ranking.calibration([0.4, 0.8], [0, 0]))


def test_calibration_error_by_hand():
    # Two bins: 0.1 and 0.3 for none, 0.2 off the mean twice; 0.5, 0.9 and 1
    # for two of three: 2.4 for 2. (0.4 + 0.4) / 5.
    probability, label = [0.1, 0.3, 0.5, 0.9, 1.0], [0, 0, 1, 0, 1]
    actual = ranking.calibration_error(probability, label, num_bins=2)
    np.testing.assert_allclose(actual, 0.16, rtol=1e-12)
    # One bin: 2.8 for 2.
    actual = ranking.calibration_error(probability, label, num_bins=1)
    np.testing.assert_allclose(actual, 0.8 / 5, rtol=1e-12)
    # Ten: 0.1, 0.3, 0.5 - 1, and 1.9 - 1 in the last.
    actual = ranking.calibration_error(probability, label)
    np.testing.assert_allclose(actual, (0.1 + 0.3 + 0.5 + 0.9) / 5, rtol=1e-12)


METRICS = {
    'auc': ranking.auc,
    'log_loss': ranking.log_loss,
    'mse': ranking.mse,
    'accuracy': ranking.accuracy,
    'calibration': ranking.calibration,
    'calibration_error': ranking.calibration_error,
}


@pytest.mark.parametrize('name', METRICS)
def test_mask_leaves_examples_out(name):
    draw = np.random.default_rng(0)
    score, label = draw.uniform(size=20), draw.integers(0, 2, 20)
    mask = draw.uniform(size=20) < 0.6
    desired = METRICS[name](score[mask], label[mask])
    # What is masked may be anything.
    score[~mask], label[~mask] = 0.5, 7
    assert METRICS[name](score, label, mask) == desired
    assert METRICS[name](score, label) != desired
    assert math.isnan(METRICS[name](score, label, np.zeros(20, bool)))


def test_mask_of_users():
    mask = np.array([True, True, False, True, True])
    user, label = [1, 1, 1, 2, 2], [0, 1, 0, 1, 0]
    # Without the third user 1 has AUC 1, with it 1/2; user 2 has 0.
    score = [1.0, 2.0, 3.0, 1.0, 2.0]
    assert ranking.gauc(score, label, user, mask) == 0.5
    assert ranking.gauc(score, label, user) == 0.25


@pytest.mark.parametrize('name', [*METRICS, 'gauc'])
@pytest.mark.parametrize('place', [0, 1, 2, 3])
def test_a_score_that_is_no_number(name, place):
    # Whichever of the rows it is, a positive or a negative one, with or without
    # order among the others: nothing is known of the whole.
    metric = METRICS.get(
        name, lambda s, y, m=None: ranking.gauc(s, y, [0] * 4, m)
    )
    score, label = np.array([0.9, 0.2, 0.4, 0.1]), np.array([1, 0, 1, 0])
    assert np.isfinite(metric(score, label))
    score[place] = np.nan
    assert math.isnan(metric(score, label))
    # A row that does not count is not asked.
    assert np.isfinite(metric(score, label, np.arange(4) != place))


def test_a_class_that_is_no_number():
    logits = np.array([[1.0, 0.0], [np.nan, 2.0]])
    assert math.isnan(ranking.accuracy(logits, [0, 1]))
    assert ranking.accuracy(logits[:1], [0]) == 1.0
    # Infinite logits have an order: two of three are right.
    logits = [[np.inf, 0.0], [-np.inf, np.inf], [0.0, -np.inf]]
    assert ranking.accuracy(logits, [0, 1, 1]) == pytest.approx(2 / 3)
