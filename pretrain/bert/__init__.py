"""The BERT architecture: encoder, cost, and the weights of other layouts."""
