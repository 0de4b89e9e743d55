"""One file per algorithm; what they share is in ``base``, ``rounds``, ``ascent`` and ``steps``."""

from otcluster.solvers.acceleration import Acceleration, Anderson, Newton, PlainRounds
from otcluster.solvers.base import Solver
from otcluster.solvers.exact_balanced import ExactBalanced
from otcluster.solvers.log_sinkhorn import LogSinkhorn
from otcluster.solvers.nearest import Nearest
from otcluster.solvers.schedules import ExponentialDecay, Schedule
from otcluster.solvers.sinkhorn_knopp import SinkhornKnopp
from otcluster.solvers.start import start_potential

__all__ = [
    "Acceleration",
    "Anderson",
    "ExactBalanced",
    "ExponentialDecay",
    "LogSinkhorn",
    "Nearest",
    "Newton",
    "PlainRounds",
    "Schedule",
    "SinkhornKnopp",
    "Solver",
    "start_potential",
]
