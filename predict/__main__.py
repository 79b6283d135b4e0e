"""``python -m predict``."""

from predict.command import main

main(prog_name="python -m predict")
