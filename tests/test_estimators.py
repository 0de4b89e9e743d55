"""The scikit-learn face: scikit-learn's own conformance suite, and what it does not ask."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from otcluster.estimators import BalancedKMeans, KMeans, NearestSubCentroid


@parametrize_with_checks(
    [
        KMeans(),
        KMeans(metric="cosine"),
        BalancedKMeans(),
        BalancedKMeans(metric="cosine"),
        NearestSubCentroid(),
        NearestSubCentroid(metric="sqeuclidean"),
    ]
)
def test_conformance(estimator, check):
    check(estimator)
