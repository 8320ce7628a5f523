"""The U-Nets of EDM (arXiv 2206.00364) and PFGM++."""

from ..family import build_network as build_network
from .networks import EDMNetwork as EDMNetwork
