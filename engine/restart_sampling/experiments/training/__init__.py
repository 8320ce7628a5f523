"""Train the small models this package ships: `python -m restart_sampling.training.train --help`."""
