"""Stackwright builds and runs the SUSE AI + ClearML platform on bare SLES hosts."""

__version__ = "0.1.0"
