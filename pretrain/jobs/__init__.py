"""How the training stages run: claims, worker processes, timing, plans and the command's frame."""
