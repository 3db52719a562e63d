"""``python -m centipede``."""

from centipede.cli import main

if __name__ == "__main__":
    main(prog_name="centipede")
