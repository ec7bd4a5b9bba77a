"""Two gateway processes and one Redis: limits that both keep together, and what happens when one of them is killed."""

import asyncio
import json
import signal
import time
import urllib.error
from pathlib import Path

import pytest
from replicas import Replicas, Try, eventually, hang_up, turn, until
from stack import targets
from websockets.exceptions import ConnectionClosedError

pytestmark = pytest.mark.skipif(targets() == ["direct"], reason="no gateway in this run")

# As many as are to be refused or let in right within a minute, in a tenth of it.
OFFERED = 1_000
PER_SECOND = 100

PER_MINUTE = 400
AT_A_TIME = 300


def check_refusals(tries: list[Try], code: str):
    refused = [it for it in tries if not it.is_in]
    assert {(it.status, it.code) for it in refused} == {(429, code)}
    assert all(int(it.retry_after) >= 1 for it in refused)


@pytest.mark.parametrize(
    "tenant, deployment, code",
    [
        (f"calls_per_minute = {PER_MINUTE}", "", "tenant_call_rate_exceeded"),
        # To open a session is a request.
        ("", f"requests_per_minute = {PER_MINUTE}", "capacity_exceeded"),
    ],
    ids=["of a tenant", "of a deployment"],
)
def test_limits_of_a_minute_are_kept_by_both_together(tenant, deployment, code, note):
    async def conversation():
        tries = await replicas.offer(OFFERED, PER_SECOND, "acme")
        await hang_up(tries)
        return tries

    with Replicas({"acme": tenant}, {"east": deployment}) as replicas:
        tries = asyncio.run(conversation())
    admitted = [it for it in tries if it.is_in]
    refused = [it for it in tries if not it.is_in]
    check_refusals(tries, code)
    # What is used of the limit comes back all the time. Let in were a minute's worth and what had come back by the
    # last refusal; when that was decided is known by when it was asked for and when it was answered.
    first_at_least = min(it.sent for it in tries)
    first_at_most = min(it.answered for it in admitted)
    last_at_least = max(it.sent for it in refused)
    last_at_most = max(it.answered for it in tries)
    least = PER_MINUTE - 1 + PER_MINUTE / 60 * (last_at_least - first_at_most)
    most = PER_MINUTE + PER_MINUTE / 60 * (last_at_most - first_at_least)
    shares = [sum(it.number == number for it in admitted) for number in (0, 1)]
    note(
        f"{code}: of {OFFERED} calls in {last_at_most - first_at_least:.1f} s at two gateways, {len(admitted)} let in "
        f"({shares[0]} + {shares[1]}); right is {least:.1f} to {most:.1f}"
    )
    assert min(shares) > 0
    assert 0.99 * least <= len(admitted) <= 1.01 * most


def test_calls_at_a_time_are_counted_by_both_together(note):
    async def conversation():
        tries = await replicas.offer(OFFERED, PER_SECOND, "acme")
        check_refusals(tries, "tenant_calls_exceeded")
        admitted = [it for it in tries if it.is_in]
        shares = [[it for it in admitted if it.number == number] for number in (0, 1)]
        note(f"tenant_calls_exceeded: of {OFFERED}, {len(shares[0])} + {len(shares[1])} let in at a time; right is {AT_A_TIME}")
        assert len(admitted) == AT_A_TIME
        assert min(map(len, shares)) > 0
        # What one gives back is free at the other.
        gone = shares[0][:50]
        await hang_up(gone)
        await eventually(lambda: len(replicas.redis.leases("acme")) == AT_A_TIME - len(gone), "50 are free")
        more = [await replicas.call(1, "acme") for _ in range(len(gone) + 5)]
        assert [it.is_in for it in more] == [True] * len(gone) + [False] * 5
        await hang_up(admitted + more)

    with Replicas({"acme": f"max_calls = {AT_A_TIME}"}) as replicas:
        asyncio.run(conversation())


class Talkers:
    """Calls that go on talking, each turn after the other, until they are told to stop."""

    def __init__(self, calls: list[Try]):
        self.tokens = 0
        self.turns = [0] * len(calls)
        self._goes_on = True
        self._tasks = [asyncio.create_task(self._talk(number, it)) for number, it in enumerate(calls)]

    async def _talk(self, number: int, call: Try):
        while self._goes_on:
            used = await turn(call.socket)
            self.tokens += used
            self.turns[number] += 1

    async def each_has_another(self, n: int):
        """Waits until each has begun and ended so many more turns."""
        wanted = [turns + n + 1 for turns in self.turns]

        def is_so():
            broken = [task.exception() for task in self._tasks if task.done()]
            assert not broken, broken
            return all(turns >= least for turns, least in zip(self.turns, wanted))

        await eventually(is_so, "another turn of each call")

    async def stop(self):
        self._goes_on = False
        await asyncio.gather(*self._tasks)


def test_places_of_a_killed_gateway_are_free_when_its_leases_end_and_not_before(note):
    limit, n_killed = 10, 6

    async def conversation():
        redis = replicas.redis
        killed = [await replicas.call(0, "acme") for _ in range(n_killed)]
        others = [await replicas.call(1, "acme") for _ in range(limit - n_killed)]
        assert all(it.is_in for it in killed + others)
        used = sum([await turn(it.socket) for it in killed])
        await eventually(lambda: redis.tokens_of_day("acme") == used, "what was used is told")
        talkers = Talkers(others)
        of_killed = process_of(redis.leases("acme"), n_killed)

        replicas.gateways[0].kill()
        for it in killed:
            with pytest.raises(ConnectionClosedError):
                await until(it.socket, "never")
        # Whatever it had sent is done then: the other gateway and this test are left.
        n_clients = lambda: len(redis.command("CLIENT", "LIST").splitlines())  # noqa: E731
        await eventually(lambda: n_clients() == 2, "Redis has noticed")
        leases = redis.leases("acme")
        ends = sorted(end for lease, end in leases.items() if lease.startswith(of_killed))
        assert len(ends) == n_killed
        killed_at = redis.now()

        newcomers, n_refused = [], 0
        while len(newcomers) < n_killed:
            before = redis.now()
            attempt = await replicas.call(1, "acme")
            after = redis.now()
            nth = len(newcomers)
            if attempt.is_in:
                assert ends[nth] <= after, "a place is free that is still leased"
                newcomers.append(attempt)
            else:
                assert (attempt.status, attempt.code) == (429, "tenant_calls_exceeded")
                assert ends[nth] > before, "a lease has ended and its place is not free"
                n_refused += 1
                await asyncio.sleep(0.02)
        took = redis.now() - killed_at
        assert n_refused > 0
        assert not (await replicas.call(1, "acme")).is_in
        note(
            f"kill -9 of one gateway: its {n_killed} leases ended {(ends[0] - killed_at) / 1e6:.2f} to "
            f"{(ends[-1] - killed_at) / 1e6:.2f} s later, refused until then {n_refused}, let in by "
            f"{took / 1e6:.2f} s; turns of the other's calls meanwhile {sum(talkers.turns)}"
        )
        await talkers.each_has_another(1)
        await talkers.stop()
        # What the killed one had told counts, and what the other goes on to use comes to it.
        await eventually(lambda: redis.tokens_of_day("acme") == used + talkers.tokens, "all tokens are counted")
        await hang_up(others + newcomers)

    with Replicas({"acme": f"max_calls = {limit}\ntokens_per_day = 1000000000"}) as replicas:
        asyncio.run(conversation())


def process_of(leases: dict[str, int], n: int) -> str:
    """What the leases of the process begin with that holds so many."""
    prefixes = [lease.split("-")[0] for lease in leases]
    return next(prefix for prefix in prefixes if prefixes.count(prefix) == n)


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def writes_to(file: Path) -> str:
    return f'[process]\nreplica = "one-of-two"\n[records]\nsink = "file"\nfile = {{ path = "{file}" }}\n'


TAKEN_OVER = 'trunkline_call_records_taken_over_total{outcome="%s"}'


def test_calls_of_a_killed_gateway_have_their_records_from_the_other(tmp_path, note):
    file = tmp_path / "calls.jsonl"
    n_killed = 70  # More than are taken over at once.

    async def conversation():
        ended, talked, *silent = [await replicas.call(0, "acme") for _ in range(n_killed + 1)]
        other = await replicas.call(1, "acme")
        tokens = await turn(talked.socket)
        await hang_up([ended])
        await eventually(lambda: len(records(file)) == 1, "the record of the call that hung up")
        calls = lambda: live_calls(replicas.redis)  # noqa: E731
        await eventually(lambda: len(calls()) == n_killed + 1, "all live calls are told")
        await eventually(lambda: tokens in [call["tokens"]["total"] for call in calls()], "so is what one has used")
        talkers = Talkers([other])
        killed_at = time.monotonic()
        replicas.gateways[0].kill()
        for it in [talked, *silent]:
            with pytest.raises(ConnectionClosedError):
                await until(it.socket, "never")
        await eventually(lambda: len(records(file)) == n_killed + 1, "the records of the killed one's calls")
        took = time.monotonic() - killed_at
        note(f"kill -9 of one gateway: its {n_killed} records were there after {took:.1f} s, lease_life = 5 s")
        await talkers.each_has_another(1)
        await talkers.stop()
        await hang_up([other])
        await eventually(lambda: len(records(file)) == n_killed + 2, "the record of the other's call")
        return tokens

    with Replicas({"acme": ""}, more=writes_to(file)) as replicas:
        tokens = asyncio.run(conversation())
        assert replicas.metric(1, TAKEN_OVER % "written") == n_killed
    found = records(file)
    assert len({record["call_id"] for record in found}) == n_killed + 2
    lost = [record for record in found if record["end_reason"] == "replica_lost"]
    assert len(lost) == n_killed
    assert sorted(record["tokens"]["total"] for record in lost) == [0] * (n_killed - 1) + [tokens]
    for record in lost:
        assert (record["version"], record["tenant"], record["dialect"]) == (1, "acme", "realtime")
        assert (record["replica"], record["end_side"]) == ("one-of-two", "gateway")
        assert [session["deployment"] for session in record["sessions"]] == ["east"]
        assert record["began_at"] <= record["ended_at"]
    reasons = [record["end_reason"] for record in found if record["end_reason"] != "replica_lost"]
    assert reasons == ["caller_hangup"] * 2


def live_calls(redis) -> list[dict]:
    """What replicas have told of their live calls."""
    names = redis.command("KEYS", "{trunkline}:roll-calls:*")
    return [json.loads(text) for name in names for text in redis.command("HVALS", name)]


def test_a_gateway_that_was_only_paused_writes_no_record_again(tmp_path):
    file = tmp_path / "calls.jsonl"

    async def conversation():
        calls = [await replicas.call(0, "acme") for _ in range(3)]
        await eventually(lambda: len(live_calls(replicas.redis)) == 3, "the calls are told")
        paused = replicas.gateways[0]._process
        paused.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: len(records(file)) == 3, "the records of the paused one's calls")
        finally:
            paused.send_signal(signal.SIGCONT)
        # They were not cut: the last word is that they go on.
        for it in calls:
            await turn(it.socket)
        newcomer = await replicas.call(0, "acme")
        await hang_up([*calls, newcomer])
        await eventually(lambda: replicas.metric(0, TAKEN_OVER % "superseded") == 3, "its own are left out")
        await eventually(lambda: len(records(file)) == 4, "the record of the call that came afterwards")

    with Replicas({"acme": ""}, more=writes_to(file)) as replicas:
        asyncio.run(conversation())
    assert [record["end_reason"] for record in records(file)] == ["replica_lost"] * 3 + ["caller_hangup"]
    assert len({record["call_id"] for record in records(file)}) == 4


def test_redis_is_killed_and_comes_back_under_both():
    # Each gives out half meanwhile, of calls at a time by its own calls.
    limit, share = 10, 5

    async def conversation():
        redis = replicas.redis
        calls = [[await replicas.call(0, "acme") for _ in range(3)], [await replicas.call(1, "acme") for _ in range(4)]]
        talkers = Talkers(calls[0] + calls[1])
        ticket, made = new_ticket(replicas, 0, "bolt"), new_key(replicas, 0, "bolt")
        redis.kill()
        for number in (0, 1):
            room = share - len(calls[number])
            tries = [await replicas.call(number, "acme") for _ in range(room + 2)]
            assert [it.is_in for it in tries] == [True] * room + [False] * 2, number
            check_refusals(tries, "tenant_calls_exceeded")
            calls[number] += tries[:room]
            # Whether it was used, nobody can say now.
            assert (await replicas.call(number, "bolt", shown=ticket)).status == 503
            with pytest.raises(urllib.error.HTTPError) as unkept:
                new_key(replicas, number, "bolt")
            assert unkept.value.code == 503
        # A key is known where it was made. That of another is neither good nor bad.
        of_key = await replicas.call(0, "bolt", shown=made)
        assert of_key.is_in
        assert (await replicas.call(1, "bolt", shown=made)).status == 503
        await talkers.each_has_another(1)

        redis.start()
        await eventually(lambda: len(redis.leases("acme")) == limit, "Redis is told of all calls")
        for number in (0, 1):
            assert not (await replicas.call(number, "acme")).is_in
        await hang_up([calls[0].pop()])
        await eventually(lambda: len(redis.leases("acme")) == limit - 1, "Redis is told that one has ended")
        # It has its own share already: only by the shared count is there room.
        newcomer = await replicas.call(1, "acme")
        assert newcomer.is_in
        assert not (await replicas.call(0, "acme")).is_in
        await talkers.each_has_another(1)
        await talkers.stop()
        await hang_up(calls[0] + calls[1] + [newcomer, of_key])

    with Replicas({"acme": f"max_calls = {limit}", "bolt": ""}, redis="fallback_share = 0.5") as replicas:
        asyncio.run(conversation())


def new_ticket(replicas: Replicas, number: int, tenant: str = "acme") -> str:
    made = replicas.post(number, "/v1/tickets", tenant, {"agent": "east", "dialect": "realtime"})
    return made["ticket"]


def test_a_ticket_made_at_one_gateway_opens_one_call_at_any():
    async def conversation():
        ticket = new_ticket(replicas, 0)
        first = await replicas.call(1, "acme", shown=ticket)
        assert first.is_in
        for number in (0, 1):
            assert (await replicas.call(number, "acme", shown=ticket)).status == 401
        # At both at the same time, one gets in.
        for number in range(20):
            ticket = new_ticket(replicas, number % 2)
            both = await asyncio.gather(*(replicas.call(number, "acme", shown=ticket) for number in (0, 1)))
            assert sorted(it.status for it in both) == [101, 401]
            await hang_up(list(both))
        await hang_up([first])

    with Replicas({"acme": ""}) as replicas:
        asyncio.run(conversation())


INSTRUCTIONS = "Be brief, and say nothing of the weather."


def new_key(replicas: Replicas, number: int, tenant: str = "acme") -> str:
    session = {"type": "realtime", "model": "east", "instructions": INSTRUCTIONS}
    return replicas.post(number, "/v1/realtime/client_secrets", tenant, {"session": session})["value"]


def test_an_ephemeral_key_made_at_one_gateway_opens_sessions_at_any():
    async def conversation():
        made = new_key(replicas, 0)
        for number in (0, 1, 1):
            call = await replicas.call(number, "acme", shown=made)
            assert call.is_in
            session = (await until(call.socket, "session.created"))["session"]
            assert session["instructions"] == INSTRUCTIONS
            await turn(call.socket)
            await hang_up([call])
            elsewhere = await replicas.call(number, "acme", model="west", shown=made)
            assert elsewhere.status == 403
        changed = made[:-1] + ("B" if made.endswith("A") else "A")
        assert (await replicas.call(1, "acme", shown=changed)).status == 401
        # It outlives who made it, and Redis sees neither it nor what it is for.
        replicas.gateways[0].kill()
        assert (await replicas.call(1, "acme", shown=made)).is_in
        [name] = replicas.redis.command("KEYS", "*:text:*")
        kept = name + replicas.redis.command("GET", name)
        assert made not in kept and INSTRUCTIONS not in kept and "acme" not in kept

    with Replicas({"acme": ""}, {"east": "", "west": ""}) as replicas:
        asyncio.run(conversation())
