"""The statistics of the paper: pure functions of arrays."""
