"""Find a method that a subclass or a mixin has overridden, and that another, inherited method does not call."""


def bypasses(cls: type, name: str, method: str) -> bool:
    """Return whether a class overrides the method ``name``, and inherits a ``method`` that does not know the override.

    A class that has both methods was written with both in mind. So the answer depends on which of them comes first in
    the class's method resolution order.

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
