"""Resampling of pretraining seeds and instances: intervals and confidence bounds."""
