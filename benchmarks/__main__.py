"""``python -m benchmarks``."""

from benchmarks.backends import main

if __name__ == "__main__":
    main()
