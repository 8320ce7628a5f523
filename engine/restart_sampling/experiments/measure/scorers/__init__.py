"""Scorers of images beside their prompts: a file for each kind, found by registry.py."""
