"""`python -m pretrain CONFIG`."""

from pretrain.command import main

if __name__ == "__main__":
    main(prog_name="python -m pretrain")
