"""Train the small models that this package ships: `python -m restart_sampling.experiments.training.train --help`."""
