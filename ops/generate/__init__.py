"""The generated files: JSON Schemas, the AsyncAPI document, diagrams, golden wire samples.

``python -m ops.generate`` writes them, ``--check`` names those that are out of date.
"""

__all__: list[str] = []
