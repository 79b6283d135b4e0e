"""`python -m finetune CONFIG`."""

from finetune.command import main

if __name__ == "__main__":
    main(prog_name="python -m finetune")
