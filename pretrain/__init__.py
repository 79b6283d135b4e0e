"""Pretraining: text, WordPiece, masked sentence pairs, encoders, and the training engine."""
