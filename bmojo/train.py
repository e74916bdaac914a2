"""`python -m bmojo.train CONFIG.toml`, as `torchrun` starts it; imported, it is the function of that name."""

from __future__ import annotations

import sys

from bmojo.training.run import train

if __name__ == "__main__":
    from bmojo.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

# `bmojo.train` is the function, also where this module is imported by its name.
sys.modules[__name__] = train  # pyright: ignore[reportArgumentType]
