"""The magnitude-preserving U-Net of EDM2 (arXiv 2312.02696)."""

from ..family import build_network as build_network
from .networks import EDM2Network as EDM2Network
