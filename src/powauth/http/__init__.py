"""The HTTP layer: a view of a request, carriers, answers and defences."""
