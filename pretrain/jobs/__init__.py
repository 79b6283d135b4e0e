"""Shared by the training stages: claims, worker processes, timing, plans, the command's frame."""
