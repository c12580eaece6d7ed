"""FID and KID against closed forms and the properties that their definitions promise."""

import numpy as np
import pytest

from rapid_diffusion import InvalidRequestError
from rapid_diffusion.evaluation.fid import KernelDistance, fid, kid, resampled


def random(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns))


def gaussian(mean, covariance, rows=64, seed=0):
    """A sample whose mean and covariance are exactly these."""
    noise = random(rows, len(mean), seed)
    white, _ = np.linalg.qr(noise - noise.mean(0))
    return mean + white * np.sqrt(rows - 1) @ np.linalg.cholesky(covariance).T


def covariance(size, seed):
    root = random(size, size, seed)
    return root @ root.T + np.eye(size)


def root_of(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def test_fid_of_gaussians_with_diagonal_covariances_is_the_closed_form():
    first = gaussian(np.array([1.0, 2, 3]), np.diag([4.0, 9, 1]))
    second = gaussian(np.array([1.0, 0, 3]), np.diag([1.0, 1, 16]), seed=1)
    assert fid(first, second) == pytest.approx(4 + 1 + 4 + 9)


def test_fid_of_covariances_that_do_not_commute_is_the_closed_form():
    one, two = covariance(5, 0), covariance(5, 1)
    shared = root_of(root_of(one) @ two @ root_of(one))
    wanted = np.trace(one + two - 2 * shared)
    assert fid(gaussian(np.zeros(5), one), gaussian(np.zeros(5), two, seed=3)) == pytest.approx(
        wanted
    )


def test_fid_with_fewer_pictures_than_features_is_the_closed_form_too():
    first, second = random(6, 40), random(6, 40, 1) + 0.5
    one, two = np.cov(first.T), np.cov(second.T)
    values = np.linalg.eigvals(one @ two).real.clip(0)
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    wanted = apart + np.trace(one + two) - 2 * np.sqrt(values).sum()
    assert fid(first, second) == pytest.approx(wanted, abs=1e-5)


def test_fid_is_symmetric_zero_for_itself_and_large_values_do_no_harm():
    first, second = random(50, 8), 2 * random(50, 8, 1)
    assert fid(first, second) == pytest.approx(fid(second, first))
    assert fid(first, first) == pytest.approx(0, abs=1e-9)
    assert fid(1e6 * first, 1e6 * second) == pytest.approx(1e12 * fid(first, second))


def test_fid_of_few_pictures_is_biased_upwards_and_the_bias_falls():
    few, many = (
        np.mean([fid(random(n, 8, 2 * s), random(n, 8, 2 * s + 1)) for s in range(10)])
        for n in (20, 400)
    )
    assert few > 5 * many > 0


def test_kid_of_one_distribution_is_nothing_on_average():
    values = [
        KernelDistance(random(40, 8, 2 * s), random(40, 8, 2 * s + 1)).value() for s in range(200)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0 < max(values)


def test_kid_is_the_sum_over_pairs_that_its_definition_says():
    first, second = random(4, 3), random(4, 3, 1)

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    def within(rows):
        return np.mean([kernel(rows[i], rows[j]) for i in range(4) for j in range(4) if i != j])

    between = np.mean([kernel(x, y) for x in first for y in second])
    wanted = within(first) + within(second) - 2 * between
    assert KernelDistance(first, second).value() == pytest.approx(wanted)


def test_kid_is_symmetric_and_grows_with_the_distance():
    first, second = random(60, 8), random(60, 8, 1)
    forth, back = KernelDistance(first, second + 1), KernelDistance(second + 1, first)
    assert forth.value() == pytest.approx(back.value())
    assert kid(first, second).mean < kid(first, second + 1).mean < kid(first, second + 2).mean
    assert kid(first, second + 1).deviation > 0


def test_weights_count_pictures_as_often_as_they_say():
    first, second = random(6, 3), random(6, 3, 1)
    weights, ones = np.array([2, 0, 1, 1, 1, 1]), np.ones(6, int)
    repeated = first[[0, 0, 2, 3, 4, 5]]
    assert fid(first, second, weights, ones) == pytest.approx(fid(repeated, second))
    assert fid(first, second, ones, ones) == pytest.approx(fid(first, second))
    distance = KernelDistance(first, second)
    assert distance.value(ones, ones) == pytest.approx(distance.value())
    assert resampled(6, 3).sum(1).tolist() == [6, 6, 6]
    assert resampled(2, 3).tolist() == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (random(5, 3), random(6, 3)),
        (random(5, 3), random(5, 4)),
        (random(1, 3), random(1, 3)),
        (random(5, 3) * np.nan, random(5, 3)),
    ],
)
@pytest.mark.parametrize("measure", [fid, kid, KernelDistance])
def test_sets_of_unequal_size_and_nan_are_refused(measure, first, second):
    with pytest.raises(InvalidRequestError):
        measure(first, second)
