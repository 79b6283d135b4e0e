"""Text to WordPiece: sources, the embedded world, the vocabulary and the tokenized corpus."""
