"""The clients' Protocols in memory, scripted: for the tests of tasks. The lab's stand-ins are another thing."""
