"""Studies of samplers: measure, profile, tune, report, training."""
