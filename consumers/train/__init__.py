"""The train stage: a merged batch of groups becomes an update of the planner."""
