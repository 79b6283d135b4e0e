"""The BERT architecture: encoder, cost, import and export of checkpoints."""
