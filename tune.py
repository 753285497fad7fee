"""`python tune.py --method cgan_kd` is `gankd tune --method cgan_kd`. Works from a checkout without an install, too."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parent
    sources = [str(root / "platform"), str(root)]
    sys.path[:0] = sources
    # Workers that Ray starts on this machine inherit it.
    os.environ["PYTHONPATH"] = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
    from gankd import interrupt

    interrupt.install()  # before anything that takes time
    interrupt.advise("nothing had been started")
    from gankd.cli import main

    sys.argv.insert(1, "tune")
    main()
