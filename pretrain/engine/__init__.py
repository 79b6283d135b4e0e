"""The training engine: runs, optimizer, initial weights, divergence, devices, saved arrays."""
