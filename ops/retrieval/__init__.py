"""Local retrieval: an index over the user's passages, and the service that searches it."""
