"""Batches of pretraining: sentence pairs, masked tokens and static instances."""
