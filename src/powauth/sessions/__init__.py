"""Sessions: ids, records and their life, and the store that holds them. This package does not know users."""
