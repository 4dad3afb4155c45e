"""Stand-ins for the commands of a SUSE machine. `hand.py` carries each call from the machine to the lab."""
