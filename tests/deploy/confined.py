"""Put this process behind the walls that a unit asks for, and become the command: `confined.py WALLS COMMAND…`.

WALLS is a JSON object: `calls`, the system calls that are let through; `families`, the address families of sockets;
`writable`, null or the folder that stays writable when all of `/` is made read-only (in a mount namespace of its own,
for which it takes root; /var/tmp is then its own). Namespaces and capabilities are refused in any case. libseccomp is
the library by which systemd does the same. It must import nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from typing import Any, Final

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
EQUAL: Final = 4
MASKED_EQUAL: Final = 7
NO_NEW_PRIVILEGES: Final = 38
DROP_FROM_BOUNDING_SET: Final = 24
NEW_NAMESPACE: Final = 0x7E020000
"""CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS}, as RestrictNamespaces=yes refuses them."""
MOUNT_NAMESPACE: Final = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def main() -> None:
    walls: dict[str, Any] = json.loads(sys.argv[1])
    if walls["writable"] is not None:
        _read_only(walls["writable"])
    for capability in range(64):
        if _libc.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0) != 0:
            break  # beyond the last one, or not ours to drop
    _worked(_libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _filter(walls["calls"], [int(getattr(socket, name)) for name in walls["families"]])
    os.execv(sys.argv[2], sys.argv[2:])


def _read_only(writable: str) -> None:
    def mount(source: str, target: str, flags: int, kind: bytes | None = None) -> None:
        done = _libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), None)
        _worked(done, f"mount {target}")

    _worked(_libc.unshare(MOUNT_NAMESPACE), "unshare")
    mount("none", "/", MS_REC | MS_PRIVATE)
    mount(writable, writable, MS_BIND)
    mount("tmpfs", "/var/tmp", 0, b"tmpfs")
    mount("none", "/", MS_REMOUNT | MS_BIND | MS_RDONLY)


def _filter(calls: list[str], families: list[int]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(ERRNO | errno.EPERM)))

    def rule(action: int, call: str, comparison: _Comparison | None = None) -> None:
        number = library.seccomp_syscall_resolve_name(call.encode())
        count = 0 if comparison is None else 1
        _worked(
            library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, count, comparison and ctypes.byref(comparison)
            ),
            call,
        )

    for call in calls:
        # A number below zero is a call that this processor's kernel does not have.
        if call not in ("socket", "clone", "clone3", "unshare", "setns") and (
            library.seccomp_syscall_resolve_name(call.encode()) >= 0
        ):
            rule(ALLOW, call)
    for family in families:
        rule(ALLOW, "socket", _Comparison(0, EQUAL, family, 0))
    rule(ALLOW, "clone", _Comparison(0, MASKED_EQUAL, NEW_NAMESPACE, 0))
    # Its flags stand in memory, where no filter sees them: systemd answers so, and the C library falls back to clone.
    rule(ERRNO | errno.ENOSYS, "clone3")
    _worked(library.seccomp_load(context), "seccomp_load")


def _worked(answer: int, what: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno() or -answer, f"{what}: {os.strerror(ctypes.get_errno() or abs(answer))}")


if __name__ == "__main__":
    main()
