"""EDM and PFGM++ checkpoints (`.pkl` snapshots, training states `.pt`), read without running what is in them."""

from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import read as read
