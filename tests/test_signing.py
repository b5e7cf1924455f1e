"""Signatures: what they bind, that nothing else passes, and that no key is shown."""

from __future__ import annotations

import base64
import importlib.util
import pickle
import traceback

import pytest

from stem.errors import ConfigError, SignatureError
from stem.signing import PayloadSigner, SigningConfig, parse_keys

KEY = bytes(range(32))
OTHER = bytes(range(100, 132))
DATA = b"\x81\xa1v\x01" * 20


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
        (SigningConfig(keys={"a": KEY[:15]}), "15 bytes, 16 are the least"),
        (SigningConfig(keys={"A b": KEY}), "not accepted"),
        (SigningConfig(keys={"x" * 33: KEY}), "not accepted"),
        (SigningConfig(keys={"a": KEY}, public_keys={"p": KEY}), "for ed25519"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config: SigningConfig, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PayloadSigner.maybe(config)


@pytest.mark.parametrize(
    ("installed", "complaint"), [(False, "stem-workers\\[ed25519\\]"), (True, "not supported yet")]
)
def test_ed25519_says_what_is_missing(installed: bool, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)

    with pytest.raises(ConfigError, match=complaint):
        PayloadSigner.maybe(SigningConfig(algorithm="ed25519", private_keys={"k": KEY}))


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


def test_keys_never_show_in_a_repr_and_are_not_pickled() -> None:
    config = SigningConfig(keys={"a": KEY}, private_keys={"b": OTHER})
    made = PayloadSigner({"a": KEY}, active="a")

    assert repr(KEY)[2:20] not in repr(config)
    assert repr(OTHER)[2:20] not in repr(config)
    assert repr(KEY)[2:20] not in repr(made)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)
