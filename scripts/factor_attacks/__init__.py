"""Attacks on second factors and passkeys over HTTP, against the demo: ``python -m scripts.factor_attacks``.

The program starts the demo on free ports in a folder of its own, runs each attack against FastAPI and Flask, and prints
a table. It exits with 1 if an attack was not held. Each attack has a positive control: the honest request on the same
path succeeds. So a wrong path or a typing error does not count as held.
"""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).parents[2] / "tests")
if _TESTS not in sys.path:  # the software authenticator and the starter of the demo are those of the tests
    sys.path.append(_TESTS)
