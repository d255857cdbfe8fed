"""The pure core: life cycles, ids, policies, digests. No IO."""
