"""``python -m lab``."""

import faulthandler

from lab.cli import main

if __name__ == "__main__":
    faulthandler.enable()  # a crash says where, in every thread
    main()
