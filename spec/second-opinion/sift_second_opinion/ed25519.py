"""Ed25519 by the rules of ZIP 215 (SPEC §2.2 and §2.3).

No common package offers these rules, so they are here in plain integers. The package `cryptography` is asked first
because it is fast: it accepts only what satisfies [s]B = R + [k]A with s < l and R in its one encoding, and all of that
is valid by ZIP 215 as well. What it refuses is judged by the integers.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z
IDENTITY: Point = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    """The complete addition law of the twisted Edwards curve with a = -1 (RFC 8032 §5.1.4)."""
    e1 = (a[1] - a[0]) * (b[1] - b[0]) % P
    e2 = (a[1] + a[0]) * (b[1] + b[0]) % P
    c = 2 * a[3] * b[3] * D % P
    d = 2 * a[2] * b[2] % P
    e, f, g, h = e2 - e1, d - c, d + c, e2 + e1
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _times(n: int, point: Point) -> Point:
    result = IDENTITY
    while n:
        if n & 1:
            result = _add(result, point)
        point = _add(point, point)
        n >>= 1
    return result


def _negative(a: Point) -> Point:
    return (-a[0] % P, a[1], a[2], -a[3] % P)


def _is_identity(a: Point) -> bool:
    return a[0] % P == 0 and (a[1] - a[2]) % P == 0


def _decode(data: bytes) -> Point | None:
    """The point that 32 bytes encode. y may be P or more, and x may be 0 with the sign bit set."""
    number = int.from_bytes(data, "little")
    y, sign = (number & (2**255 - 1)) % P, number >> 255
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if v * x * x % P != u:
        return None
    if x & 1 != sign:
        x = -x % P
    return (x, y, 1, x * y % P)


_base = _decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
assert _base is not None
BASE: Point = _base


def is_good_key(key: bytes) -> bool:
    """The canonical encoding of a point that is not of small order (§2.2)."""
    if len(key) != 32 or int.from_bytes(key, "little") & (2**255 - 1) >= P:
        return False
    point = _decode(key)
    return point is not None and not _is_identity(_times(8, point))


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is valid (§2.3). `key` has passed `is_good_key`."""
    if len(signature) != 64:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return verify_slowly(key, signature, message)


def verify_slowly(key: bytes, signature: bytes, message: bytes) -> bool:
    """The three rules of §2.3 in their order."""
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    a, r = _decode(key), _decode(signature[:32])
    if a is None or r is None:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    difference = _add(_times(s, BASE), _negative(_add(r, _times(k, a))))
    return _is_identity(_times(8, difference))
