"""One GRPO update by verl. Runs in the train environment: nothing of the core imports this."""
