"""The storage ports on Postgres with pgvector."""
