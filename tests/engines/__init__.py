"""Real vLLM from the serve environment."""
