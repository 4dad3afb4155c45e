"""Validation workloads: standalone scripts on the standard library and the ClearML SDK alone."""
