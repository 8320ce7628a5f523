"""The fused row: one row of any solver's table, for a whole batch, and the cursor's advance to the next."""
