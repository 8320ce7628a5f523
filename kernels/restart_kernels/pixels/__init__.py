"""Samples to pixels: floats in [−1, 1] to uint8, channels last."""
