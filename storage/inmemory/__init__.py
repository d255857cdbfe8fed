"""Twins of what the simulator needs, in this process's memory: not for anything that must last."""
