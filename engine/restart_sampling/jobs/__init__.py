"""Resumable folders of samples."""
