"""The support bundle: what is gathered, from where, and how it is written. Secrets: domain/redaction.py."""
