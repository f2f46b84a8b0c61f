"""The conformance suite for extensions, including those that you write.

Subclass `ExtensionConformance` in your own tests and provide a method that makes the extension. pytest collects the
rest::

    class TestResets(ExtensionConformance):
        def make_extension(self) -> Extension[Any]:
            return Resets(MemoryMailer())

        async def hold(self, auth: Auth, account: Account[Any]) -> object:
            return await auth.extension(Resets).tokens.issue(account.key, account.identity.email)

        async def is_valid(self, auth: Auth, held: object) -> bool:
            return await auth.extension(Resets).tokens.find(held) is not None

        async def use(self, auth: Auth, held: object) -> bool:
            return await auth.extension(Resets).tokens.take(held) is not None

If an extension holds anything for a user, such as a token, the suite checks that it is dead after each change that ends
an account (TRM-02, TRM-03, TRM-04). If it can be used once, the suite checks that parallel uses have one winner.

Each test runs twice: without an event loop, as under WSGI, and on one. The suite uses pytest only to collect the tests.
Do not run it under ``python -O``.
"""

from powauth.testing.extension.suite import Auth, Suite

__all__ = ["Auth", "ExtensionConformance"]


class ExtensionConformance(Suite):
    """Tests of everything that `powauth.Extension` asks of an extension. Subclass it as ``Test…``.

    `powauth.testing.extension.suite.Suite` lists the attributes and methods to override.
    """
