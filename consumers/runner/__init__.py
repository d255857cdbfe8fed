"""The one runner of every stage: polling, claims, attempts, group commits, publishing, sweeping."""
