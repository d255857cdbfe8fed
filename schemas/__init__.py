"""What travels: event payloads, their envelope, records from outside, and the schemas of all three.

Golden wire samples lie in ``golden/``: one per event type, never changed, decoded for ever.
"""

__all__: list[str] = []
