"""Adapters between the core and protocols or frameworks. They make no decisions."""
