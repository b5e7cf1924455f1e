"""Signatures: what they bind, that nothing else passes, and that no key is shown."""

from __future__ import annotations

import base64
import pickle
import sys
import traceback
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stem.errors import ConfigError, SignatureError
from stem.keyring import Ed25519Key, check_point, parse_keys
from stem.messages.envelope import Envelope
from stem.signing import PayloadSigner, SigningConfig

KEY = bytes(range(32))
OTHER = bytes(range(100, 132))
DATA = b"\x81\xa1v\x01" * 20
PUBLIC = Ed25519PrivateKey.from_private_bytes(KEY).public_key().public_bytes_raw()


def ed(
    public: dict[str, bytes] | None = None, private: dict[str, bytes] | None = None, active: str | None = None
) -> SigningConfig:
    return SigningConfig(algorithm="ed25519", public_keys=public or {}, private_keys=private or {}, active_key=active)


def made(config: SigningConfig) -> PayloadSigner:
    signer = PayloadSigner.maybe(config)
    assert signer is not None
    return signer


def signer(**keys: bytes) -> PayloadSigner:
    ring = {kid.replace("_", "-"): key for kid, key in keys.items()} or {"k1": KEY}
    return PayloadSigner(ring, active=next(iter(ring)))


def test_what_was_signed_is_accepted() -> None:
    signer().verify("task", "stem", "default", DATA, signer().sign("task", "stem", "default", DATA))


@pytest.mark.parametrize(
    ("purpose", "namespace", "queue", "data"),
    [
        ("control", "stem", "default", DATA),
        ("task", "prod", "default", DATA),
        ("task", "stem", "other", DATA),
        ("task", "stem", "default", DATA + b"\0"),
        ("task", "stem", "default", DATA[:-1]),
        ("task", "stem", "default", b""),
        ("task", "ste", "mdefault", DATA),
    ],
)
def test_purpose_namespace_queue_and_every_byte_are_bound(
    purpose: str, namespace: str, queue: str, data: bytes
) -> None:
    signature = signer().sign("task", "stem", "default", DATA)

    with pytest.raises(SignatureError, match="does not match"):
        signer().verify(purpose, namespace, queue, data, signature)  # type: ignore[arg-type]  # any purpose


def test_no_flipped_bit_passes_in_data_or_signature() -> None:
    one = signer()
    signature = one.sign("task", "n", "q", DATA)

    for target in ("data", "signature"):
        original = DATA if target == "data" else signature
        for position in range(len(original) * 8):
            flipped = bytearray(original)
            flipped[position // 8] ^= 1 << position % 8
            data, signed = (bytes(flipped), signature) if target == "data" else (DATA, bytes(flipped))
            with pytest.raises(SignatureError):
                one.verify("task", "n", "q", data, signed)


def test_no_truncated_or_extended_signature_passes() -> None:
    one = signer()
    signature = one.sign("task", "n", "q", DATA)

    for length in range(len(signature)):
        with pytest.raises(SignatureError):
            one.verify("task", "n", "q", DATA, signature[:length])
    for extra in (b"\0", b"\xff" * 40):
        with pytest.raises(SignatureError, match="ill-formed"):
            one.verify("task", "n", "q", DATA, signature + extra)
    with pytest.raises(SignatureError, match="not signed"):
        one.verify("task", "n", "q", DATA, b"")


def test_the_same_secret_under_another_id_does_not_pass() -> None:
    with pytest.raises(SignatureError, match="unknown key 'k1'"):
        signer(k2=KEY).verify("task", "n", "q", DATA, signer(k1=KEY).sign("task", "n", "q", DATA))
    with pytest.raises(SignatureError, match="does not match"):
        signer(k1=OTHER).verify("task", "n", "q", DATA, signer(k1=KEY).sign("task", "n", "q", DATA))


def test_keys_rotate_without_a_gap() -> None:
    before = PayloadSigner({"old": KEY}, active="old")
    both = PayloadSigner({"old": KEY, "new": OTHER}, active="new")
    after = PayloadSigner({"new": OTHER}, active="new")

    both.verify("task", "n", "q", DATA, before.sign("task", "n", "q", DATA))
    after.verify("task", "n", "q", DATA, both.sign("task", "n", "q", DATA))
    with pytest.raises(SignatureError, match="unknown key 'old'"):
        after.verify("task", "n", "q", DATA, before.sign("task", "n", "q", DATA))


def test_an_unknown_key_id_is_shown_escaped() -> None:
    forged = bytes([5]) + b"\x1b[2Jx" + bytes(32)

    with pytest.raises(SignatureError) as caught:
        signer().verify("task", "n", "q", DATA, forged)

    assert "\x1b" not in str(caught.value)


def test_no_keys_means_no_signer() -> None:
    assert PayloadSigner.maybe(SigningConfig()) is None


def test_a_single_key_is_the_active_one() -> None:
    made = PayloadSigner.maybe(SigningConfig(keys={"only": KEY}))

    assert made is not None
    assert b"only" in made.sign("task", "n", "q", DATA)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (SigningConfig(keys={"a": KEY, "b": OTHER}), "say which key signs: a, b"),
        (SigningConfig(keys={"a": KEY}, active_key="z"), "'z' is not among the keys"),
        (SigningConfig(active_key="a"), "STEM_SIGNING_KEYS is not"),
        (SigningConfig(keys={"a": KEY[:31]}), "31 bytes, 32 are the least"),
        (SigningConfig(keys={"A b": KEY}), "not accepted"),
        (SigningConfig(keys={"x" * 33: KEY}), "not accepted"),
        (SigningConfig(public_keys={"p": PUBLIC}), "set STEM_SIGNING_ALGORITHM=ed25519"),
        (SigningConfig(algorithm="ed25519", keys={"a": KEY}), "set STEM_SIGNING_ALGORITHM=hmac-sha256"),
        (SigningConfig(keys={"a": KEY}, public_keys={"a": PUBLIC}), "an id is of one key"),
        (ed(public={"p": PUBLIC}, private={"p": OTHER}), "are no pair"),
        (ed(private={"p": KEY + KEY}), "64 bytes: an Ed25519 one has 32"),
        (ed(public={"p": PUBLIC[:31]}), "31 bytes: an Ed25519 one has 32"),
        (ed(private={"p": KEY, "q": OTHER}), "say which key signs: p, q"),
        (ed(public={"p": PUBLIC}, private={"q": OTHER}, active="p"), "is public and cannot sign"),
        (ed(public={"p": PUBLIC}, active="z"), "'z' is not among the keys"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: SigningConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PayloadSigner.maybe(config)


def test_ed25519_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)

    with pytest.raises(ConfigError, match=r"stem-workers\[ed25519\]"):
        PayloadSigner.maybe(ed(private={"k": KEY}))


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_keys_are_read_from_pairs() -> None:
    text = f"a:{encoded(KEY)}, b-2:{encoded(OTHER)}"

    assert parse_keys("STEM_SIGNING_KEYS", text) == {"a": KEY, "b-2": OTHER}


@pytest.mark.parametrize(
    "text",
    [
        encoded(KEY),
        f"UPPER:{encoded(KEY)}",
        f":{encoded(KEY)}",
        "a:",
        f"a:{encoded(KEY)},",
        f"a:{encoded(KEY)},a:{encoded(OTHER)}",
        f"a:{encoded(KEY)[:-1]}",
        f"a:{encoded(KEY)[:5]} {encoded(KEY)[5:]}",
        f"a:{encoded(KEY)[:5]}!{encoded(KEY)[5:]}",
        f"a:{encoded(KEY)}\u00e9",
        # The last character of a 32-byte key has two bits that decode to nothing: another spelling of the same key.
        f"a:{encoded(KEY)[:-2]}{chr(ord(encoded(KEY)[-2]) + 1)}=",
    ],
)
def test_keys_of_another_form_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="STEM_SIGNING_KEYS") as caught:
        parse_keys("STEM_SIGNING_KEYS", text)

    shown = "".join(traceback.format_exception_only(caught.value))
    assert encoded(KEY)[:12] not in shown


# ------------------------------------------------------------------------------------------------------------- Ed25519

PAIR = ed(private={"k1": KEY})


def test_who_has_public_keys_alone_verifies_and_cannot_sign() -> None:
    worker = made(ed(public={"k1": PUBLIC, "k2": Ed25519PrivateKey.generate().public_key().public_bytes_raw()}))

    worker.verify("task", "n", "q", DATA, made(PAIR).sign("task", "n", "q", DATA))
    assert (worker.signs, made(PAIR).signs) == (False, True)
    with pytest.raises(ConfigError, match=r"public keys only verify: set STEM_SIGNING_PRIVATE_KEYS"):
        worker.sign("task", "n", "q", DATA)


def test_keys_rotate_from_hmac_to_ed25519() -> None:
    before = made(SigningConfig(keys={"old": KEY}))
    both = made(SigningConfig(keys={"old": KEY}, public_keys={"k1": PUBLIC}))
    after = made(ed(public={"k1": PUBLIC}))

    both.verify("task", "n", "q", DATA, before.sign("task", "n", "q", DATA))
    both.verify("task", "n", "q", DATA, made(PAIR).sign("task", "n", "q", DATA))
    after.verify("task", "n", "q", DATA, made(PAIR).sign("task", "n", "q", DATA))
    with pytest.raises(SignatureError, match="unknown key 'old'"):
        after.verify("task", "n", "q", DATA, before.sign("task", "n", "q", DATA))


def test_the_algorithm_is_the_keys_and_never_the_messages() -> None:
    """A public key is no secret: as one of HMAC it would let everybody sign."""
    forged = PayloadSigner({"k1": PUBLIC}, active="k1").sign("task", "n", "q", DATA)
    longer = bytes([2]) + b"k1" + forged[3:] + bytes(32)

    for signature in (forged, longer):
        with pytest.raises(SignatureError):
            made(ed(public={"k1": PUBLIC})).verify("task", "n", "q", DATA, signature)


SIGNERS = {"hmac-sha256": SigningConfig(keys={"k1": KEY, "k2": OTHER}, active_key="k1"), "ed25519": PAIR}
BODIES = 50


def bodies(count: int) -> list[bytes]:
    """Encoded tasks, each of other arguments."""
    return [
        Envelope(id=f"0190-{number:04}", task="report.build", args={"n": number, "text": "x" * (number % 7)}).encode()
        for number in range(count)
    ]


@pytest.mark.timeout(120)  # seventy thousand signatures are checked, which takes ten seconds on an idle machine
@pytest.mark.parametrize("algorithm", SIGNERS)
def test_of_fifty_bodies_no_flipped_bit_passes_in_body_or_signature(algorithm: str) -> None:
    signer = made(SIGNERS[algorithm])
    passed = checked = 0
    for body in bodies(BODIES):
        signature = signer.sign("task", "stem", "default", body)
        signer.verify("task", "stem", "default", body, signature)
        whole = body + signature
        for position in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[position // 8] ^= 1 << position % 8
            checked += 1
            try:
                signer.verify("task", "stem", "default", bytes(flipped[: len(body)]), bytes(flipped[len(body) :]))
                passed += 1
            except SignatureError:
                continue

    assert (passed, checked > BODIES * 600) == (0, True)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_of_fifty_bodies_none_passes_for_another_purpose_namespace_queue_or_key(algorithm: str) -> None:
    signer = made(SIGNERS[algorithm])
    seed = bytes(range(50, 82))
    foreign = made(ed(private={"k1": seed})) if algorithm == "ed25519" else PayloadSigner({"k1": OTHER}, active="k1")
    for body in bodies(BODIES):
        signature = signer.sign("task", "stem", "default", body)
        swapped = bytes([2]) + b"k2" + signature[3:]
        for purpose, namespace, queue, given in (
            ("control", "stem", "default", signature),
            ("task", "prod", "default", signature),
            ("task", "stem", "other", signature),
            ("task", "stem", "default", swapped),
            ("task", "stem", "default", foreign.sign("task", "stem", "default", body)),
            ("task", "stem", "default", b""),
        ):
            with pytest.raises(SignatureError):
                signer.verify(purpose, namespace, queue, body, given)  # type: ignore[arg-type]  # any purpose


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def low_order() -> set[bytes]:
    """The eight points that eight times themselves are nothing, found by doubling points of small y."""
    found = set()
    eighth = next(y for y in eighths())
    for y in (0, 1, P - 1, eighth, P - eighth):
        for odd in (0, 1):
            if y in (1, P - 1) and odd:
                continue  # x is 0 there: not the canonical spelling
            found.add((y | odd << 255).to_bytes(32, "little"))
    return found


def eighths() -> Iterator[int]:
    """Roots y of the doubling that ends in y = 0: d y^4 + 2 y^2 - 1 = 0 on a curve with a = -1."""
    root = square_root((1 + D) % P)
    for sign in (1, -1):
        yy = (-1 + sign * root) * pow(D, -1, P) % P
        if pow(yy, (P - 1) // 2, P) == 1:
            yield square_root(yy)


def square_root(value: int) -> int:
    root = pow(value, (P + 3) // 8, P)
    if root * root % P != value % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    assert root * root % P == value % P
    return root


def test_the_points_of_low_order_are_refused() -> None:
    """Under them `cryptography` takes one and the same signature for any message."""
    weak = low_order()
    identity = (1).to_bytes(32, "little")

    assert (len(weak), identity in weak) == (8, True)
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"anything")
    for point in weak:
        with pytest.raises(ConfigError, match="weak"):
            check_point("k", point)
        with pytest.raises(ConfigError, match="weak"):
            PayloadSigner.maybe(ed(public={"k": point}))


@pytest.mark.parametrize(
    "y", [*range(P, 2**255), 1 | 1 << 255, (P - 1) | 1 << 255, *(y | 1 << 255 for y in (P, P + 1))]
)
def test_other_spellings_of_points_are_refused(y: int) -> None:
    with pytest.raises(ConfigError, match="not written canonically"):
        check_point("k", y.to_bytes(32, "little"))


def test_what_is_no_point_of_the_curve_is_refused_and_every_real_key_taken() -> None:
    with pytest.raises(ConfigError, match="no point of the curve"):
        check_point("k", (2).to_bytes(32, "little"))
    for _ in range(20):
        check_point("k", Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def test_a_key_shows_nothing_of_itself() -> None:
    key = Ed25519Key("k", private=KEY)

    assert repr(key) == "<Ed25519Key>"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def test_keys_never_show_in_a_repr_and_are_not_pickled() -> None:
    config = SigningConfig(keys={"a": KEY}, private_keys={"b": OTHER})
    made = PayloadSigner({"a": KEY}, active="a")

    assert repr(KEY)[2:20] not in repr(config)
    assert repr(OTHER)[2:20] not in repr(config)
    assert repr(KEY)[2:20] not in repr(made)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)
