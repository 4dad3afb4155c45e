"""The receiver: signed requests about tenants become durable entries of its store, then runs of `tenant-request`.

It holds no secret of a site and no way to a cluster. Guide: 5.7.2, 5.8, 5.9; docs/webhooks.md, docs/decisions/010.
"""
