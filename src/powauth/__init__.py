"""Session-based user authentication for Python web apps."""
