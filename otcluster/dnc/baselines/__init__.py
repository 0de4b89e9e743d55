"""What DNC is compared with, on the same backbone and in the same loop.

Every head has ``forward(features) -> logits``, which changes nothing, and ``observe(features, labels, *, reducer=None)``, which
is the only place where its buffers change.
"""

from otcluster.dnc.baselines.deepncm import DeepNCMHead
from otcluster.dnc.baselines.knn import KNNHead
from otcluster.dnc.baselines.linear import LinearHead
from otcluster.dnc.baselines.simclr import SimCLRHead

__all__ = ["DeepNCMHead", "KNNHead", "LinearHead", "SimCLRHead"]
