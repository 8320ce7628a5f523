"""What will run: plans, in pure float64, without torch."""

from .plan import Plan as Plan
from .plan import Row as Row
