"""Measure samplers: candidates, speed and quality as keyed rows. All of it needs the extra [bench]."""
