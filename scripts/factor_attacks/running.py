"""Starts the demos, runs the attacks in parallel, and writes the lines of the table."""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from harness.demo_support import Demo
from scripts.factor_attacks import ceremonies, challenges, codes, enrolment, late, passkeys, paths, wire
from scripts.factor_attacks.arena import ATTACKS, SHORT, Arena, Attack, Broken, at_once

AT_ONCE: Final = 4
"""Number of attacks that run in parallel. Each has its own users and addresses."""

MODULES: Final = (paths, challenges, codes, enrolment, passkeys, ceremonies, wire, late)
"""The modules with attacks, in the order of their numbers."""

TABLE_HEAD: Final = "| # | attack | a success would be | what happened | |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Outcome:
    """The result of one attack on both servers.

    Attributes:
        number: the number of the attack.
        attack: the attack.
        happened: what happened.
        held: whether it was held on both servers.
    """

    number: int
    attack: Attack
    happened: str
    held: bool


def row(outcome: Outcome) -> str:
    """Return the line of the table."""
    found = outcome.attack
    verdict = "held" if outcome.held else "BROKEN"
    return f"| {outcome.number} | {found.name} | {found.success} | {outcome.happened} | {verdict} |"


def chosen(words: Sequence[str]) -> list[tuple[int, Attack]]:
    """Return the attacks whose names contain one of the words, with their numbers. Without words, return all."""
    ordered = [each for module in MODULES for each in ATTACKS if each.run.__module__ == module.__name__]
    numbered = list(enumerate(ordered, 1))
    return [
        (number, each)
        for number, each in numbered
        if not words or any(word.lower() in each.name.lower() for word in words)
    ]


def run_all(
    folder: Path, tell: Callable[[Outcome], None], words: Sequence[str] = (), *, quick: bool = False
) -> list[Outcome]:
    """Run the attacks against two demos in a folder, and tell each outcome in the order of the numbers.

    One of the demos has short times, for attacks that come late.

    Args:
        folder: the folder.
        tell: gets each outcome.
        words: if given, only the attacks run whose names have one of these words.
        quick: whether each attack runs against one server alone, in turns.
    """
    attacks = chosen(words)
    usual: list[Demo] = []
    hasty: list[Demo] = []
    short = {"WORKERS": "1", "FRESH": str(SHORT), "CHALLENGE": str(SHORT)}
    starts = [lambda: usual.append(Demo(folder / "usual"))]
    if any(each.late for _, each in attacks):  # they wait most of their time, so they go first
        starts.append(lambda: hasty.append(Demo(folder / "late", **short)))
    with ExitStack() as stack:
        stack.callback(lambda: [demo.stop() for demo in (*usual, *hasty)])
        at_once(starts, lambda start: start())
        arenas = [stack.enter_context(closing(Arena(demo))) for demo in (*usual, *hasty)]
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        running = {
            number: pool.submit(_outcome, number, each, arenas[-1 if each.late else 0], quick=quick)
            for number, each in sorted(attacks, key=lambda each: not each[1].late)
        }
        outcomes = []
        for number, _ in attacks:
            outcomes.append(running[number].result())
            tell(outcomes[-1])
        return outcomes


def _outcome(number: int, attack: Attack, arena: Arena, *, quick: bool) -> Outcome:
    happened: list[str] = []
    held = True
    one, other = arena.apps
    servers = [("FastAPI", one, other), ("Flask", other, one)]
    if quick or attack.once:
        servers = [servers[number % 2]]
    for name, here, elsewhere in servers:
        try:
            with arena.closing() as own:
                text = attack.run(own, here, elsewhere)
        except Broken as error:
            text, held = f"{name}: {error}", False
        except (httpx.HTTPError, LookupError, ValueError, TypeError, AssertionError) as error:
            place = traceback.extract_tb(error.__traceback__)
            last = [each for each in place if "factor_attacks" in each.filename][-1]
            text, held = f"{name}: {type(error).__name__} in {last.name}, line {last.lineno}: {error}", False
        if text not in happened:
            happened.append(text)
    return Outcome(number, attack, "; ".join(happened).replace("|", "/").replace("\n", " "), held)
