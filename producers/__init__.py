"""Ways in: publish a question, ingest a benchmark, reveal a label."""
