"""A reader of EDM, EDM2 and PFGM++ checkpoints (`.pkl` snapshots, training states `.pt`) that runs nothing in them."""

from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import read as read
