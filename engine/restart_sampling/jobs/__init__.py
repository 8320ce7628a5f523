"""Writers: from float samples in [−1, 1] to files, atomically."""
