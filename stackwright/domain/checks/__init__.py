"""Rules of a site file that look at values and at several fields together, by section. spec_checks.py runs them all."""
