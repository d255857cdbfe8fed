"""Becomes a supervised child: `python -I -S launch.py PARENT SIGNAL UID GID REACH -- argv…`.

Runs before the child's program in the child's own process, where `preexec_fn` would run Python
between fork and exec of a threaded supervisor. It asks the kernel to signal the child when its
supervisor dies, gives up root for `UID` (-1: stay who we are), then becomes the program. Only the
standard library is imported, so this costs some 20 ms.

`REACH` 1 keeps one capability when root is given up: to pass through folders that are closed to
`UID`. A checkout under /root (mode 0700) would else hold neither the program nor its data. For
access(2), by which Postgres' programs look for each other, the kernel drops the capabilities of
whoever is not root unless a secure bit says otherwise.
"""

import ctypes
import os
import sys

__all__ = ["main"]

_FIXED = 5
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAP_AMBIENT = 1, 8, 23, 47
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 4
_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def _prctl(*values: int) -> int:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:5]]
    return int(ctypes.CDLL(None, use_errno=True).prctl(*arguments))


def _passing_capability() -> int:
    """Return the weakest capability at hand that passes through closed folders."""
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if _prctl(_PR_CAPBSET_READ, capability) == 1:
            return capability
    sys.exit("this account may not pass through the state folder: set MIA_HOME to an open place")


def _keep(capability: int) -> None:
    """Reduce our capabilities to one, and hand it on through exec."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = 1 << capability
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        sys.exit("cannot keep a capability: set MIA_HOME to a folder that others may pass through")
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability)


def _drop(uid: int, gid: int, *, reach: bool) -> None:
    capability = _passing_capability() if reach else -1
    if reach:
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    _prctl(_PR_SET_KEEPCAPS, int(reach))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if reach:
        _keep(capability)


def _die_with(parent: int, signal_number: int) -> None:
    if sys.platform != "linux":
        return  # no such request elsewhere; the next `mia up` ends what is left over
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def main(argv: list[str]) -> None:
    """Parse the five fixed arguments, then exec the rest."""
    parent, signal_number, uid, gid, reach = (int(value) for value in argv[:_FIXED])
    if uid >= 0:
        _drop(uid, gid, reach=bool(reach))
    _die_with(parent, signal_number)  # after setuid, which clears the request
    command = argv[_FIXED + 1 :]
    os.execv(command[0], command)  # noqa: S606 - there is no shell, and none is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
