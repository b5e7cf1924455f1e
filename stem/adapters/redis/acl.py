"""The rights of the server's users: the least that each role needs, in one table.

Servers check commands, keys and channels inside scripts as those outside: what a role's scripts touch stands here too.
 `stemctl acl print` prints it; tests/adapters/test_acl.py runs every role under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stem.adapters.redis.keys import Keys

_CONNECT: Final = "client|setname ping select eval evalsha time get"
"""Of every role: connecting, scripts, the server's clock and the version of the keyspace."""


@dataclass(frozen=True, slots=True)
class Role:
    """What one user may do.

    Attributes:
        keys: patterns behind the namespace's prefix, each with `~` (all), `%R~` (read) or `%W~` (write).
        channels: patterns behind the prefix of channels. Servers do not tell publishing from subscribing.
        commands: those beyond the ones of every role.
    """

    keys: str
    channels: str
    commands: str


ROLES: Final[Mapping[str, Role]] = {
    "producer": Role(
        keys=(
            "~task:* ~q:*:p? ~q:*:meta ~q:*:bell ~q:*:delayed %R~q:*:retry %R~q:*:held %R~q:*:lease "
            "%W~queues ~unique:* ~stats:* %W~history ~schema %R~result:*"
        ),
        channels="done:*",
        commands=(
            "expire hdel hexists hget hincrby hkeys hlen hmget hset hsetnx llen lpush ltrim pexpire rpush "
            "sadd set subscribe unsubscribe xack xadd xdel xgroup|create xlen zadd zcard zrange"
        ),
    ),
    "worker": Role(
        keys=(
            "~task:* ~q:* ~queues ~unique:* ~workers ~worker:* ~fleet ~redact %R~epoch %R~fence ~desired:* "
            "%R~control:log %W~reply:* ~wake:* %W~events %R~watch ~stats:* %W~history ~schema ~probe "
            "~result:*"
        ),
        channels="control done:*",
        commands=(
            "blpop del expire hdel hexists hget hgetall hincrby hkeys hlen hmget hset hsetnx info llen lpush "
            "lrange ltrim pexpire pttl publish rpush sadd scan set sismember smembers subscribe unsubscribe "
            "xack xadd xdel xgroup|create xgroup|delconsumer xgroup|setid xinfo|consumers xinfo|groups xlen "
            "xpending xrange xreadgroup zadd zcard zcount zrange zrem zremrangebyscore zscore"
        ),
    ),
    "operator": Role(
        keys=(
            "%R~* ~task:* ~q:* %W~queues ~unique:* ~epoch %W~fence ~desired:* ~control:log ~request:* ~watch "
            "~stats:* %W~history %W~audit %W~audit:outcomes ~schema ~probe"
        ),
        channels="control done:*",
        commands=(
            "del exists expire hdel hexists hget hgetall hincrby hkeys hlen hmget hset hsetnx incr info llen "
            "lpush lrange ltrim persist pexpire pttl publish rpush sadd scan set sismember smembers "
            "subscribe unsubscribe xack xadd xdel xgroup|create xinfo|consumers xinfo|groups xlen xpending xrange "
            "xread xrevrange zadd zcard zcount zrange zrangebyscore zrem zremrangebyrank zremrangebyscore zrevrange "
            "zscore"
        ),
    ),
    "viewer": Role(
        keys="%R~* ~watch ~probe",
        channels="control",
        commands=(
            "hdel hget hgetall hkeys hmget info lrange pexpire publish set sismember smembers xack xdel "
            "xinfo|consumers xinfo|groups xlen xrange xread xrevrange zadd zcard zcount zrange zrem zremrangebyscore "
            "zrevrange"
        ),
    ),
}


def rules(role: str, *, namespace: str) -> str:
    """Return the `ACL SETUSER` line of one role. It gives no password and keeps those that the user has.

    Raises:
        KeyError: there is no such role.
    """
    wanted, names = ROLES[role], Keys(namespace, 0)
    words = [f"ACL SETUSER {namespace}-{role} on clearselectors resetkeys resetchannels -@all"]
    # Scripts are handed the bare prefix as their key, which no key has as its name.
    words.append(f"~{names.prefix}")
    for pattern in wanted.keys.split():
        rights, _, tail = pattern.partition("~")
        words.append(f"{rights}~{names.prefix}{tail}")
    # The number of the database in a channel's name is left open: `{namespace}@<db>:`.
    words += [f"&{{{namespace}}}@*:{channel}" for channel in wanted.channels.split()]
    words += [f"+{command}" for command in sorted({*_CONNECT.split(), *wanted.commands.split()})]
    return " ".join(words)
