"""Retriable units of work, one file a layer: look, decide, change, look again."""
