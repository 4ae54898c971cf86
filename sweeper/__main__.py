"""`python -m sweeper` is `sweeper`."""

from __future__ import annotations

from sweeper.cli.main import main

if __name__ == "__main__":
    main()
