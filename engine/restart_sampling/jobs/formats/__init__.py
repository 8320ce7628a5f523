"""The formats of a job's files, one file each."""

from .base import Format as Format
from .base import ShardData as ShardData
from .base import Written as Written
from .base import find as find
