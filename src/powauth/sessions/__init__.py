"""Sessions: ids, records and their life, and the store that holds them. Nothing here knows users."""
