"""Policies as frozen values: what to do about failures, leases and offsets. No IO, no clock."""
