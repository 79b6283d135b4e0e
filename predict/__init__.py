"""Classifiers to class probabilities, and the prediction tensor that holds them."""
