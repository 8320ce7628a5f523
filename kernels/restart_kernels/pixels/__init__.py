"""Samples to pixels: uint8, channels last, in one pass."""
