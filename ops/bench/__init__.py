"""Benchmarks of the real runner, with JSON baselines; ratios to a floor of the same run in CI."""
