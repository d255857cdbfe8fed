"""Evidence: each guarantee shown by a run of its own, with its figures written down."""
