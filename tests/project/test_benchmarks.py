"""The comparison's own pieces: what it measures lets the right people in, and its figures come out as they should."""

import struct
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks import bounds, compare, report
from benchmarks.__main__ import main as run_all
from benchmarks.backends import Row
from benchmarks.beside_sign_ins import SIGN_INS, Answer, measure_one, times
from benchmarks.bounds import Results
from benchmarks.chart import Bar, chart
from benchmarks.contenders import contenders
from benchmarks.contenders.base import EMAIL, Contender, Login, Place, constant
from benchmarks.contenders.plain import anyone, asgi_app
from benchmarks.counting import count
from benchmarks.figures import Measured, Spread, normal_yard, ratio, scaled, spread
from benchmarks.requests import OTHER_COOKIE, cookie_header
from benchmarks.servers import RedisServer, directory, redis_executable, running
from benchmarks.signing_in import commits_so_far
from benchmarks.subject import SESSIONS, Counts, Sample, Subject, forged
from benchmarks.workers import Worker, cores, turns

ALL = contenders()
HERE = {name: contender for name, contender in ALL.items() if not contender.redis}


@pytest.mark.parametrize("name", sorted(HERE))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_contender_lets_in_who_has_signed_in_and_nobody_else(name: str, tmp_path: Path) -> None:
    contender = HERE[name]
    if missing := contender.missing():
        pytest.skip(f"{', '.join(missing)}: installed by make bench")
    with Subject(contender, Place(tmp_path)) as subject:
        assert len(subject.cookies) == SESSIONS
        for cookie in subject.cookies:
            answer = subject.ask(cookie)
            assert (answer.status, EMAIL.encode() in answer.body) == (200, True)
            assert subject.ask(cookie, layered=False).body == answer.body
        if contender.guarded:
            for stranger in (None, OTHER_COOKIE, forged(subject.cookies[0])):
                answer = subject.ask(stranger)
                assert (answer.status, EMAIL.encode() in answer.body) == (401, False)


def test_a_layer_that_lets_everybody_in_is_not_measured(tmp_path: Path) -> None:
    async def sign_in(scope: object) -> list[tuple[str, str]]:
        del scope
        return [("set-cookie", "id=1234567890; Path=/")]

    open_door = constant(lambda: asgi_app(anyone, sign_in), lambda: asgi_app(anyone), Login())
    subject = Subject(Contender("open", "an open door", "asgi", open_door, "", ""), Place(tmp_path))
    with pytest.raises(AssertionError, match="open lets None in"):
        subject.__enter__()


def test_a_layer_that_lets_nobody_in_is_not_measured(tmp_path: Path) -> None:
    async def sign_in(scope: object) -> list[tuple[str, str]]:
        del scope
        return [("set-cookie", "id=1234567890; Path=/")]

    shut_door = constant(lambda: asgi_app(lambda _: None, sign_in), lambda: asgi_app(anyone), Login())
    subject = Subject(Contender("shut", "a shut door", "asgi", shut_door, "", ""), Place(tmp_path))
    with pytest.raises(AssertionError, match=r"shut: .*401"):
        subject.__enter__()


def test_statements_and_writes_are_counted(tmp_path: Path) -> None:
    for name in (
        "powauth-wsgi-sqlite",
        "powauth-sqlite",
        "powauth-fastapi-sqlite",
        "powauth-fastapi-memory-row",
        "powauth-fastapi-memory-row-session",
        "powauth-flask-memory-row",
        "sqlalchemy-get",
    ):
        (tmp_path / name).mkdir()
        with Subject(ALL[name], Place(tmp_path / name)) as subject:
            assert count(subject) == Counts(writes=0, statements=1)
            assert count(subject) == Counts(writes=0, statements=1)


@pytest.mark.skipif(redis_executable() is None, reason="redis-server is not installed")
def test_round_trips_are_counted_by_the_server(tmp_path: Path) -> None:
    expected = {
        "redis-mget": Counts(round_trips=1, commands=1, writes=0, statements=None),
        "powauth-redis": Counts(round_trips=1, commands=1, writes=0, statements=0),
        "powauth-redis-near": Counts(round_trips=0, commands=0, writes=0, statements=0),
    }
    with directory() as place:
        server = RedisServer(place, durable=False)
        with running(server):
            for name, counts in expected.items():
                (tmp_path / name).mkdir()
                with Subject(ALL[name], Place(tmp_path / name, server.url)) as subject:
                    assert count(subject) == counts


def test_a_worker_is_a_process_that_measures_when_told(tmp_path: Path) -> None:
    core = cores()[0]
    worker = Worker("floor", Place(tmp_path), core)
    try:
        worker.ready()
        sample = worker.sample(worker.requests_within(0.001), False)
        assert min(sample.layered, sample.bare, *sample.yards) > 0
        assert not sample.layered_first
        assert worker.counts() == Counts()
    finally:
        worker.close()


def test_a_worker_says_what_went_wrong(tmp_path: Path) -> None:
    worker = Worker("powauth-wsgi-sqlite", Place(tmp_path / "missing"), cores()[0])
    try:
        with pytest.raises(RuntimeError, match="powauth-wsgi-sqlite: OperationalError"):
            worker.ready()
    finally:
        worker.close()


def test_everybody_has_a_turn_in_each_round_from_both_ends_and_in_both_orders() -> None:
    order = list(turns(["a", "b", "c"], 4))
    rounds = [order[start : start + 3] for start in range(0, 12, 3)]
    assert ["".join(name for name, _ in each) for each in rounds] == ["abc", "cba", "abc", "cba"]
    for name in "abc":
        assert [first for each, first in order if each == name] == [True, True, False, False]


def sample(layered: float, bare: float, yards: Sequence[float], *, layered_first: bool = True) -> Sample:
    first, second, third = yards
    return Sample(layered, bare, (first, second, third), layered_first)


@pytest.mark.parametrize("layered_first", [True, False])
def test_each_block_is_scaled_by_the_yardsticks_around_it(layered_first: bool) -> None:
    # The processor slows down to a half before the second block: what ran in it took twice as long.
    slow = (3e-6, 4e-6) if layered_first else (6e-6, 2e-6)
    found = scaled([sample(*slow, (1, 1, 3), layered_first=layered_first)], 1)
    assert found.layered == pytest.approx([3])
    assert found.bare == pytest.approx([2])
    assert found.added == pytest.approx([1])


def test_the_normal_yard_is_the_median_of_all() -> None:
    assert normal_yard([sample(1, 1, (1, 2, 3)), sample(1, 1, (2, 2, 9))]) == 2


def test_a_ratio_is_of_medians_and_its_spread_is_that_of_the_rounds() -> None:
    one, other = (Measured(added, [], []) for added in ([10, 20, 30, 100], [10, 10, 10, 20]))
    assert ratio(one, other) == Spread(2.5, 1.75, 3.5)
    assert spread([7]) == Spread(7, 7, 7)


def test_contenders_are_chosen_by_word_with_the_floor_and_what_is_missing_is_named() -> None:
    left: dict[str, str] = {}
    found = [contender.name for contender in compare.chosen(["wsgi-memory"], left)]
    assert found == ["floor", "powauth-wsgi-memory"]
    assert left == {}
    compare.chosen([], left)
    assert all("not installed: " in reason or "is missing" in reason for reason in left.values())


def measured(added: float) -> Measured:
    return Measured([added, added], [1, 1], [added + 1, added + 1], Counts(round_trips=1, writes=0))


def test_bounds_are_held_to_the_median_and_only_where_there_are_figures() -> None:
    results = Results(
        {
            "floor": measured(2),
            "powauth-memory": measured(3),
            "powauth-redis-near": measured(3),
            "starlette": measured(8),
            "powauth-flask-memory-row": measured(9),
            "flask-login": measured(8),
        },
        stores=[
            Row("memory", size, 700, read, bare, 1, 1, 1) for size, read, bare in ((1000, 90, 50), (9000, 173, 120))
        ],
    )
    (peer,) = bounds.peer_verdicts(results)
    assert (peer.bound, peer.measured, peer.holds) == ("at least 3", "2.67 (2.67 - 2.67)", False)
    (with_row,) = bounds.row_verdicts(results)
    assert (with_row.what, with_row.bound, with_row.holds) == ("on Flask, to Flask-Login", "at most 1.1", False)
    found = {verdict.what: verdict for verdict in bounds.verdicts(results)}
    assert [(verdict.bound, verdict.holds) for verdict in found.values()] == [
        ("at most 2.5", True),
        ("at most 84 (that of a bare read, 70, and 15% of the smaller store's read)", True),
    ]
    assert found["Redis, asyncio, near cache, to the floor; the user read"].measured == "1.50 (1.50 - 1.50)"
    assert [row[-1] for row in bounds.rows([peer, *found.values()])].count("does not hold") == 1


@pytest.mark.parametrize("part", ["--only=memory", "--parts=compare,serve"])
def test_a_part_of_the_run_does_not_overwrite_the_page(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = report.PAGE.read_bytes()
    with pytest.raises(SystemExit):
        run_all(["--write", "--quick", part])
    assert "--write is for a run of everything" in capsys.readouterr().err
    assert report.PAGE.read_bytes() == before


def test_reads_and_sign_ins_arrive_side_by_side_and_all_are_answered() -> None:
    pytest.importorskip("uvicorn")
    found = measure_one("memory", 2, rounds=2, seconds=0.2)
    assert (found.backend, found.passes, found.asked) == ("memory", 2, 2 * 0.2 * SIGN_INS)
    assert found.refused < found.asked
    assert 0 < found.alone.median <= found.alone_late.median
    assert 0 < found.sign_in <= found.sign_in_late


def test_an_answer_that_is_neither_done_nor_refused_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="500"):
        times([Answer(200, "", 1), Answer(500, "", 1)], 200, 503)


def test_every_bound_is_between_contenders_that_exist() -> None:
    assert {name for each in (*bounds.PEERS, *bounds.ROWS, *bounds.OWN) for name in (each.one, each.other)} <= set(ALL)


def test_the_page_holds_what_was_measured_and_says_what_was_not() -> None:
    found = [ALL["floor"], ALL["powauth-memory"]]
    results = Results({contender.name: measured(2) for contender in found})
    text = report.page(found, results, {"crudauth-memory": "not installed: crudauth"})
    assert "| powauth, memory (ASGI) | 2.00 | 2.00 - 2.00 | 1.00 (1.00 - 1.00) | 1.00 | 1 | 0 | - |" in text
    assert text.count(report.NOT_MEASURED) == 7
    assert "Left out here: crudauth-memory (not installed: crudauth)." in text
    assert "<!--" not in text


def test_a_cell_of_a_table_cannot_end_its_row() -> None:
    assert report.markdown_table(["a"], [["b | c"]]) == "| a |\n|---|\n| b \\| c |"


def test_the_picture_is_well_formed_and_longer_bars_are_for_more() -> None:
    bars = [
        Bar("<slow> & steady", "other", Spread(400, 300, 500)),
        Bar("floor", "floor", Spread(2, 1.5, 2.5)),
        Bar("lost in noise", "powauth", Spread(-1, -2, 1)),
    ]
    root = ET.fromstring(chart('"Costs"', "µs", bars))
    svg = "{http://www.w3.org/2000/svg}"
    widths = {each.get("class"): float(each.get("width", "0")) for each in root.iter(f"{svg}rect")}
    assert widths["powauth"] < widths["floor"] < widths["other"]
    texts = [each.text for each in root.iter(f"{svg}text")]
    assert texts.index("lost in noise") < texts.index("floor") < texts.index("<slow> & steady")
    assert root.get("aria-label") == '"Costs"'


def test_cookies_come_back_as_they_were_set() -> None:
    set_cookies = ["a=1; Path=/; Secure", 'b="x,y"; HttpOnly', "c=; Max-Age=0"]
    assert cookie_header(set_cookies) == 'a=1; b="x,y"'


def test_commits_are_read_from_the_meta_pages(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path)) as environment:
        for number in range(7):
            with environment.begin(write=True) as transaction:
                transaction.put(struct.pack(">I", number), b"value")
        assert commits_so_far(tmp_path) == environment.info()["last_txnid"] == 7
