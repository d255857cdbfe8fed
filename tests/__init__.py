"""Tests, in tiers by what they need."""
