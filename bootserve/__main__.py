"""``python -m bootserve``."""

from bootserve.cli import main

if __name__ == "__main__":
    main()
