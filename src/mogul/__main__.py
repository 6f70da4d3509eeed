"""``python -m mogul`` is the command ``mogul``."""

from mogul.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
