"""Ensembles of fields: several samples of each input, scored against the truth of that input."""

from .scores import EnsembleScorer as EnsembleScorer
from .scores import Scores as Scores
from .scores import Variable as Variable
