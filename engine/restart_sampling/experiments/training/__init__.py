"""Train the small models this package ships: `python -m restart_sampling.experiments.training.train --help`."""
