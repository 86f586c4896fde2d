"""`python -m recolam`, and what `torchrun -m recolam` starts in every process, of which the first alone prints."""

import os
import sys
from contextlib import redirect_stdout

from recolam.cli import main

if __name__ == "__main__":
    with redirect_stdout(sys.stdout if os.environ.get("RANK", "0") == "0" else None):
        main()
