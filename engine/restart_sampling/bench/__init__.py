"""Measuring samplers: contenders, speed and quality as keyed rows. Needs `pip install 'restart-sampling[bench]'` for the whole."""
