"""The scikit-learn face: estimators whose parameters, attributes and conventions are scikit-learn's.

They need scikit-learn: ``pip install 'otcluster[estimators]'``. NumPy in gives NumPy out; torch tensors are computed with where
they are, and give tensors.
"""

try:
    import sklearn  # noqa: F401
except ImportError as missing:
    raise ImportError("otcluster.estimators needs scikit-learn: pip install 'otcluster[estimators]'") from missing

from otcluster.estimators.balanced import BalancedKMeans
from otcluster.estimators.kmeans import KMeans
from otcluster.estimators.minibatch import MiniBatchKMeans
from otcluster.estimators.subcentroids import NearestSubCentroid

__all__ = ["BalancedKMeans", "KMeans", "MiniBatchKMeans", "NearestSubCentroid"]
