"""One file per algorithm; what they share is in ``base`` and ``rounds``."""

from otcluster.solvers.base import Solver
from otcluster.solvers.log_sinkhorn import LogSinkhorn
from otcluster.solvers.nearest import Nearest
from otcluster.solvers.sinkhorn_knopp import SinkhornKnopp

__all__ = ["LogSinkhorn", "Nearest", "SinkhornKnopp", "Solver"]
