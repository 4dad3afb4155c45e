"""The RKE2 stand-in: release files, install script, units, supervisor and cluster. Facts: RKE2 docs."""
