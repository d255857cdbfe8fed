"""Real Kafka and real Postgres."""
