"""Prediction stores, read into counts and sums, and comparisons of sizes."""
