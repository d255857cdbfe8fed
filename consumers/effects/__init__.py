"""What performs effects for real: model endpoints, tools, memories, labels, the ledger."""
