"""The HTTP interface: questions in, answers and their steps out. See docs/http-api.md."""
