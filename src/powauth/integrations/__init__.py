"""The ends of the core that frameworks plug into. None of them decides anything."""
