"""Find out whether one method of a class bypasses another one, which a subclass or a mixin has overridden."""


def bypasses(cls: type, name: str, method: str) -> bool:
    """Return whether the class ``method`` comes from does not know the ``name`` that ``cls`` has.

    It is true if ``cls`` takes ``method`` from a class behind the one from which it takes ``name``. A class that has
    both, or has ``method`` alone, was written with ``name`` in mind.

    >>> class Shop:
    ...     def price(self): ...
    ...     def shown_price(self): ...
    >>> class Reduced(Shop):
    ...     def price(self): ...
    >>> bypasses(Shop, "price", "shown_price"), bypasses(Reduced, "price", "shown_price")
    (False, True)
    """
    for each in cls.__mro__:
        if method in vars(each):
            return False
        if name in vars(each):
            return True
    return False
