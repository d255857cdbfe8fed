"""Kafka and Postgres as supervised local processes, without Docker; everything in one folder."""
