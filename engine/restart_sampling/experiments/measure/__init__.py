"""Measuring samplers: contenders, speed and quality as keyed rows. All of it needs the extra [bench]."""
