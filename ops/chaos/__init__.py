"""Clusters that are killed on purpose: what the promise is tested with."""
