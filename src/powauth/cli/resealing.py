"""``powauth reseal``: seals the secrets in an app's tables with the newest ``secret_key``, after a rotation."""

import argparse
from functools import partial

from powauth.cli.app import Auth, load_auth, run_with
from powauth.cli.output import print_result, progress
from powauth.cli.status import Status, UsageError


def run(options: argparse.Namespace) -> int:
    """Import the app, and seal again what its extensions keep.

    Raises:
        PowauthError: if the app cannot be imported, or something cannot be sealed.
    """
    if not options.app:
        raise UsageError("give --app package.module:auth")
    auth = load_auth(options.app)
    return run_with(auth, _reseal(auth, options))


async def _reseal(auth: Auth, options: argparse.Namespace) -> int:
    """Call `Extension.reseal` of every extension. The core does not know which ones seal something."""
    result: dict[str, int] = {}
    for extension in auth.accounts.hooks.extensions:
        count = await extension.reseal(partial(_tell, extension.name))
        if count is not None:
            result[extension.name] = count
    lines = [f"{name}: {count} sealed again" for name, count in result.items()]
    print_result(options, result, "\n".join(lines) or "no extension of this app keeps sealed secrets")
    return Status.DONE


def _tell(name: str, so_far: int) -> None:
    progress(f"{name}: {so_far} sealed again")
