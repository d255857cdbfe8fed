"""Test-time learning without IO: rewards, advantages, training rows, guard and staleness."""
