"""Small helpers that know nothing of sampling: checks of input, errors, files, the terminal."""
