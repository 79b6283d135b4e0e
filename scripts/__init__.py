"""Occasional programs: benchmarks, calibration, validation, plans, export of checkpoints."""
