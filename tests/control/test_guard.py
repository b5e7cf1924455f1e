"""Commands that are signed: whom a worker obeys, and whom it refuses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from stem.authority import ControlConfig, ControlKeys, Role
from stem.contracts import Desired, Logged
from stem.control.guard import GRACE_MS, SKEW_MS, Guard, Refused
from stem.keyring import Ed25519Key
from stem.messages.command import DISTRUST, Command
from stem.signing import PayloadSigner

NOW: Final = 1_800_000_000_000
SECRETS: Final = {"ops": b"o" * 32, "eyes": b"e" * 32}
ROLES: Final[Mapping[str, Role]] = {"ops": "operator", "eyes": "viewer"}
CHANGES: Final = ("revoke", "pause", "resume", "drain", "undrain", "shutdown", "something-newer")


def keys_of(kind: str, active: str = "ops") -> tuple[ControlKeys, ControlKeys]:
    """Return the keys of an operator, and those of a worker."""
    if kind == "hmac":
        config = ControlConfig(keys=SECRETS, roles=ROLES, active_key=active)
        return ControlKeys(config), ControlKeys(config)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = {
        kid: Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        for kid, secret in SECRETS.items()
    }
    signing = ControlConfig(private_keys={active: SECRETS[active]})
    return ControlKeys(signing), ControlKeys(ControlConfig(public_keys=public, roles=ROLES)).for_worker()


def guard_of(keys: ControlKeys | None, *, began_ms: int = NOW - 3_600_000) -> Guard:
    guard = Guard(keys, namespace="prod", worker_id="w-1")
    guard.begin([], now_ms=began_ms)
    return guard


def signed(keys: ControlKeys, command: Command, *, namespace: str = "prod", at_ms: int = NOW) -> Logged:
    made = keys.sign(command, namespace=namespace, now_ms=at_ms)
    return Logged(epoch=1, issued_at_ms=at_ms, command=made.encode(), signature=made.signature)


def said_to(guard: Guard, logged: Logged, *, now_ms: int = NOW) -> str:
    """Return the code of the refusal; `yes` and `again` for what is let through or passed over."""
    try:
        return "yes" if guard.admit(logged, Command.decode(logged.command), now_ms=now_ms) else "again"
    except Refused as refused:
        return refused.code if str(refused) and refused.code in DISTRUST else "of no known kind"


def some_commands(count: int) -> list[Command]:
    chance = random.Random(261124)
    return [
        Command(
            id=f"c{number}",
            type=chance.choice(("ping", "inspect", "stats", *CHANGES)),
            targets=tuple(f"w{n}" for n in range(chance.randrange(3))),
            args={"ids": ["x" * chance.randrange(40)]},
            actor=chance.choice(("", "ann@host")),
        )
        for number in range(count)
    ]


@pytest.mark.timeout(120)  # some 60 000 verifications
@pytest.mark.parametrize("kind", ["hmac", "ed25519"])
def test_fifty_commands_are_obeyed_as_they_are_and_not_one_with_a_flipped_bit(kind: str) -> None:
    operator, worker = keys_of(kind)
    for number, command in enumerate(some_commands(50)):
        whole = signed(operator, command)
        assert said_to(guard_of(worker), whole) == "yes"
        strict = guard_of(worker)
        size = len(whole.command)
        # Ed25519 takes ten times as long: there each seventh bit, which are other places from command to command.
        every = 7 if kind == "ed25519" else 1
        for bit in range(number % every, (size + len(whole.signature)) * 8, every):
            flipped = bytearray(whole.command + whole.signature)
            flipped[bit // 8] ^= 1 << bit % 8
            spoilt = replace(whole, command=bytes(flipped[:size]), signature=bytes(flipped[size:]))
            with pytest.raises(Refused) as caught:
                strict.admit(spoilt, command, now_ms=NOW)
            assert caught.value.code == "signature-invalid"


@pytest.mark.parametrize("kind", ["hmac", "ed25519"])
def test_fifty_commands_from_elsewhere_are_refused(kind: str) -> None:
    """Another namespace, another purpose, another key's id, no signature at all."""
    operator, worker = keys_of(kind)
    guard = guard_of(worker)
    ring = {"ops": Ed25519Key("ops", private=SECRETS["ops"])} if kind == "ed25519" else {"ops": SECRETS["ops"]}
    tasks = PayloadSigner(ring, active="ops")
    for command in some_commands(50):
        whole = signed(operator, command)
        assert said_to(guard, signed(operator, command, namespace="test")) == "signature-invalid"
        for_tasks = tasks.sign("task", "prod", "", whole.command)
        assert said_to(guard, replace(whole, signature=for_tasks)) == "signature-invalid"
        swapped = bytes([4]) + b"eyes" + whole.signature[4:]
        assert said_to(guard, replace(whole, signature=swapped)) == "signature-invalid"
        assert said_to(guard, replace(whole, signature=b"")) == "signature-missing"
        assert said_to(guard, whole) == "yes", "what was refused has left nothing behind"


@pytest.mark.parametrize("kind", ["hmac", "ed25519"])
def test_viewers_may_ask_and_nothing_else(kind: str) -> None:
    viewer, worker = keys_of(kind, active="eyes")
    guard = guard_of(worker)

    asked = {one: said_to(guard, signed(viewer, Command(id=one, type=one))) for one in ("ping", "inspect", "stats")}
    told = {one: said_to(guard, signed(viewer, Command(id=one, type=one))) for one in CHANGES}

    assert set(asked.values()) == {"yes"}
    assert set(told.values()) == {"role-refused"}


def test_a_signature_is_good_for_a_time() -> None:
    operator, worker = keys_of("hmac")
    whole = signed(operator, Command(id="c", type="pause", timeout_ms=5_000))
    ends = Command.decode(whole.command).expires_at_ms

    assert ends == NOW + 65_000
    assert said_to(guard_of(worker), whole, now_ms=ends) == "expired"
    assert said_to(guard_of(worker), whole, now_ms=ends - 1) == "yes"
    assert said_to(guard_of(worker), whole, now_ms=NOW - SKEW_MS - 1) == "expired"
    assert said_to(guard_of(worker), whole, now_ms=NOW - SKEW_MS) == "yes"


def test_no_signature_is_good_for_more_than_a_day() -> None:
    operator, _ = keys_of("hmac")
    whole = signed(operator, Command(id="c", type="drain", timeout_ms=10**12))

    assert Command.decode(whole.command).expires_at_ms == NOW + 86_400_000


def test_a_command_is_obeyed_once_however_many_came_between() -> None:
    operator, worker = keys_of("hmac")
    guard = guard_of(worker)
    whole = signed(operator, Command(id="first", type="resume"))

    assert said_to(guard, whole) == "yes"
    for number in range(3_000):
        assert said_to(guard, signed(operator, Command(id=f"c{number}", type="ping"))) == "yes"
    assert said_to(guard, whole) == "replayed"


def test_a_worker_that_was_started_again_obeys_no_command_of_its_former_life() -> None:
    operator, worker = keys_of("hmac")
    whole = signed(operator, Command(id="c", type="shutdown", timeout_ms=600_000))
    reborn = guard_of(worker, began_ms=NOW + GRACE_MS + 1)
    assert said_to(reborn, whole, now_ms=NOW + GRACE_MS + 2) == "replayed"

    at_once = Guard(worker, namespace="prod", worker_id="w-1")
    at_once.begin([Command.decode(whole.command)], now_ms=NOW + 1)
    assert said_to(at_once, whole, now_ms=NOW + 2) == "replayed"


def test_what_stands_in_the_broker_drains_or_stops_nobody_who_obeys_signatures() -> None:
    operator, worker = keys_of("hmac")
    guard = guard_of(worker)
    forged = Desired(epoch=5, fence=5, now_ms=NOW, drained=frozenset(["w-1"]), shutdown={"w-1": "hard"})

    trusted = guard.trusted(forged)
    assert (trusted.drained, trusted.shutdown, trusted.epoch) == (frozenset(), {}, 5)

    assert said_to(guard, signed(operator, Command(id="d", type="drain"))) == "yes"
    assert guard.trusted(replace(forged, drained=frozenset())).drained == {"w-1"}
    assert said_to(guard, signed(operator, Command(id="u", type="undrain"))) == "yes"
    assert guard.trusted(forged).drained == frozenset()


def test_without_keys_everything_is_taken_once() -> None:
    operator, _ = keys_of("hmac")
    guard = guard_of(None)
    unsigned = Logged(epoch=1, issued_at_ms=NOW, command=Command(id="c", type="drain").encode())

    assert [said_to(guard, unsigned), said_to(guard, unsigned)] == ["yes", "again"]
    assert said_to(guard, signed(operator, Command(id="d", type="drain"))) == "yes"
    desired = Desired(epoch=1, fence=1, now_ms=NOW, shutdown={"w-1": "warm"})
    assert guard.trusted(desired) is desired
