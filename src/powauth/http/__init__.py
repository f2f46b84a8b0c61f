"""What powauth needs of HTTP: a view of a request, carriers, answers, defences."""
