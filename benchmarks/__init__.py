"""What powauth costs, and what it bears: run with ``make bench`` and ``make faults``."""
