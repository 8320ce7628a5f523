"""Executors run a table around a network. `eager` launches row by row."""

from .eager import EagerExecutor as EagerExecutor
