"""Planner versions at the servers of the planner: what the registry wants there is there."""
