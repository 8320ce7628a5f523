"""The fused step: one row of any solver, for a whole batch."""
