"""One fault during an upgrade: the cluster never loses its quorum because of us."""
