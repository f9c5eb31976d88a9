#!/usr/bin/env python3
"""Computes signatures.json and bad-keys.json: Ed25519 edge cases with plain integers, no library of the project.

The rule is ZIP 215: s < l; A and R are any encoding (also a y of p or more) of a point of the curve;
[8][s]B = [8]R + [8][k]A with k = SHA-512(R || A || M) over the encodings as given.
"""
import hashlib, json, os

p = 2**255 - 19
l = 2**252 + 27742317777372353535851937790883648493
d = -121665 * pow(121666, -1, p) % p
sqrtm1 = pow(2, (p - 1) // 4, p)

def recover(y, sign):
    u, v = (y * y - 1) % p, (d * y * y + 1) % p
    x = u * pow(v, 3, p) * pow(u * pow(v, 7, p), (p - 5) // 8, p) % p
    if v * x * x % p == -u % p:
        x = x * sqrtm1 % p
    if v * x * x % p != u:
        return None
    return ((p - x) % p if x % 2 != sign else x, y % p)

def add(P, Q):
    (x1, y1), (x2, y2) = P, Q
    t = d * x1 * x2 * y1 * y2 % p
    return ((x1 * y2 + x2 * y1) * pow(1 + t, -1, p) % p, (y1 * y2 + x1 * x2) * pow(1 - t, -1, p) % p)

def mul(n, P):
    Q = (0, 1)
    while n:
        if n & 1:
            Q = add(Q, P)
        P, n = add(P, P), n >> 1
    return Q

def encode(P):
    return (P[1] | (P[0] & 1) << 255).to_bytes(32, "little")

def decode(e):
    n = int.from_bytes(e, "little")
    return recover((n & (2**255 - 1)) % p, n >> 255)

B = recover(4 * pow(5, -1, p) % p, 0)
assert mul(l, B) == (0, 1)

def valid(A, R, s, m):
    if s >= l:
        return False
    a, r = decode(A), decode(R)
    if a is None or r is None:
        return False
    k = int.from_bytes(hashlib.sha512(R + A + m).digest(), "little") % l
    return mul(8 * s, B) == add(mul(8, r), mul(8 * k, a))

# A point of order 8: l times a point outside the subgroup.
y = 2
while True:
    P = recover(y, 0)
    if P is not None:
        T = mul(l, P)
        if mul(4, T) != (0, 1):
            break
    y += 1
torsion = [mul(i, T) for i in range(8)]

# Encodings of small order, canonical or not: all e that decode to a torsion point.
small = []
for y in sorted({t[1] for t in torsion}):
    for value in (y, y + p):
        if value < 2**255:
            for sign in (0, 1):
                e = (value | sign << 255).to_bytes(32, "little")
                if decode(e) in torsion:
                    small.append(e)
small = sorted(set(small))
assert len(small) == 14, len(small)

def secret(n):
    h = hashlib.sha512(bytes([n] * 32)).digest()
    return (int.from_bytes(h[:32], "little") & (2**254 - 8)) | 2**254

def k_of(A, R, m):
    return int.from_bytes(hashlib.sha512(R + A + m).digest(), "little") % l

a = secret(1)
A = encode(mul(a, B))
cases = []

def case(name, A, R, s, m):
    cases.append({"name": name, "key": A.hex(), "signature": (R + s.to_bytes(32, "little")).hex(),
                  "message": m.decode(), "valid": valid(A, R, s, m)})

message = b"zip215"
r = 123456789
R = encode(mul(r, B))
k = k_of(A, R, message)
s = (r + k * a) % l
case("plain", A, R, s, message)
case("s-plus-l", A, R, s + l, message)
case("s-is-l", A, R, l, message)
case("s-is-l-minus-1", A, R, l - 1, message)
case("s-is-l-plus-1", A, R, l + 1, message)
case("s-is-zero", A, R, 0, message)
case("s-high-bit", A, R, s + 2**255, message)
case("s-all-ones", A, R, 2**256 - 1, message)
case("other-message", A, R, s, b"zip216")
case("s-changed", A, R, (s + 1) % l, message)
case("r-sign-flipped", A, bytes(R[:31]) + bytes([R[31] ^ 0x80]), s, message)
for i, e in enumerate(small):
    m = b"small-order R %d" % i
    case("small-order-r-%02d" % i, A, e, k_of(A, e, m) * a % l, m)
    case("small-order-r-%02d-wrong-s" % i, A, e, (k_of(A, e, m) * a + 1) % l, m)
    case("small-order-r-%02d-other-encoding" % i, A, small[(i + 1) % 14], k_of(A, e, m) * a % l, m)
for i in range(1, 8):
    mixedR = encode(add(mul(r, B), torsion[i]))
    m = b"mixed order R %d" % i
    case("mixed-order-r-%d" % i, A, mixedR, (r + k_of(A, mixedR, m) * a) % l, m)
    mixedA = encode(add(mul(a, B), torsion[i]))
    m = b"mixed order A %d" % i
    case("mixed-order-a-%d" % i, mixedA, R, (r + k_of(mixedA, R, m) * a) % l, m)
    case("mixed-order-a-%d-k-of-the-pure-key" % i, mixedA, R, (r + k_of(A, R, m) * a) % l, m)
    m = b"mixed order both %d" % i
    case("mixed-order-both-%d" % i, mixedA, mixedR, (r + k_of(mixedA, mixedR, m) * a) % l, m)
# An R that is no point.
y = 2
while recover(y, 0) is not None:
    y += 1
case("r-not-on-the-curve", A, y.to_bytes(32, "little"), s, message)
# Encodings of R with y of p or more: 19 values, most of them no small order.
for extra in range(19):
    for sign in (0, 1):
        e = ((p + extra) | sign << 255).to_bytes(32, "little")
        if decode(e) is not None and e not in small:
            # Nobody knows the logarithm of such an R, so no s can make it valid.
            case("loose-r-%02d-sign-%d" % (extra, sign), A, e, k_of(A, e, message) * a % l, message)

bad = [{"name": "small-order-%02d" % i, "key": e.hex()} for i, e in enumerate(small)]
for extra in range(19):
    for sign in (0, 1):
        e = ((p + extra) | sign << 255).to_bytes(32, "little")
        if decode(e) is not None and e not in small:
            bad.append({"name": "loose-%02d-sign-%d" % (extra, sign), "key": e.hex()})
bad.append({"name": "not-on-the-curve", "key": y.to_bytes(32, "little").hex()})

here = os.path.dirname(os.path.abspath(__file__))
for name, value in (("signatures.json", cases), ("bad-keys.json", bad)):
    with open(os.path.join(here, name), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]\n")
print(len(cases), "cases,", sum(c["valid"] for c in cases), "valid;", len(bad), "bad keys")
