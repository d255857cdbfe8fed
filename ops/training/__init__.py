"""The engine as a process: the trainer's port, fulfilled by the train environment."""
