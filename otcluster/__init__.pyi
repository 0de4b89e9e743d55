from otcluster.assignment import Assignment as Assignment
from otcluster.assignment import Status as Status
from otcluster.distributed import Reducer as Reducer
from otcluster.gradients import ImplicitGradient as ImplicitGradient
from otcluster.gradients import UnrolledGradient as UnrolledGradient
from otcluster.masses import RelaxedKL as RelaxedKL
from otcluster.problem import InfeasibleError as InfeasibleError
from otcluster.problem import Problem as Problem
from otcluster.scores import DenseScores as DenseScores
from otcluster.scores import PointScores as PointScores
from otcluster.solve import exact_balanced as exact_balanced
from otcluster.solve import log_sinkhorn as log_sinkhorn
from otcluster.solve import nearest as nearest
from otcluster.solve import sinkhorn_knopp as sinkhorn_knopp
from otcluster.solve import solve as solve
from otcluster.solvers import Anderson as Anderson
from otcluster.solvers import ExactBalanced as ExactBalanced
from otcluster.solvers import ExponentialDecay as ExponentialDecay
from otcluster.solvers import LogSinkhorn as LogSinkhorn
from otcluster.solvers import Nearest as Nearest
from otcluster.solvers import Newton as Newton
from otcluster.solvers import PlainRounds as PlainRounds
from otcluster.solvers import SinkhornKnopp as SinkhornKnopp
from otcluster.solvers import Solver as Solver
from otcluster.stores.centroids import CentroidStore as CentroidStore
from otcluster.stores.queue import MemoryQueue as MemoryQueue

__version__: str
