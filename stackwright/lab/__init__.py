"""A data centre in a folder: real wires, stand-in machines. Production never imports it."""
