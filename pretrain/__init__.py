"""Text to WordPiece, sentence pairs with masks, and pretrained encoders; the training engine."""
