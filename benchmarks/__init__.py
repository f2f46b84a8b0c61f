"""The cost of powauth, and its behaviour during faults: run ``make bench`` and ``make faults``."""
