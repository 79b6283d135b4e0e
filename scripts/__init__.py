"""What a person runs once in a while: benchmarks, calibration, validation."""
