"""What a run has learned, batch by batch: from its events to a table or a picture."""
