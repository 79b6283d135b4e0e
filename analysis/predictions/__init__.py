"""Prediction stores read into counts and sums, and sizes compared."""
