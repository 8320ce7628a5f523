"""The U-Nets of EDM (arXiv 2206.00364) and PFGM++."""

from .networks import EDMNetwork as EDMNetwork
from .networks import build_network as build_network
