"""The runner, and one module or folder per stage."""
