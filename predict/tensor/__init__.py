"""The prediction tensor on disk: contract, creating, writing, opening, correctness."""
