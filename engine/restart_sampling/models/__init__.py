"""EDM U-Nets and their files. Loading by name is `restart_sampling.load`."""

from .edm import EDMNetwork as EDMNetwork
from .edm import build_network as build_network
from .weights import load_safetensors as load_safetensors
from .weights import save_safetensors as save_safetensors
