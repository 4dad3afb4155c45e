"""The RKE2 stand-in as a program on a host of its own, under the real systemd and with real etcd as its datastore.

Runs in the containers of tests/rung. Real are etcd and its membership; RKE2 itself and its API server imitate.
Facts: RKE2 documentation; k3s pkg/etcd and pkg/cluster for the order of events and the journal's words.
"""
