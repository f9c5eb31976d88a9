"""Merkle trees: leaves, nodes and proofs (SPEC §1 and §7; RFC 6962, RFC 9162)."""

from __future__ import annotations

from .base import HASH_BYTES, MAX_INT, need, sha256

EMPTY_ROOT = sha256(b"")


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00", entry)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def _split(size: int) -> int:
    """The largest power of two strictly below `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(*hashes: bytes) -> None:
    need(all(len(h) == HASH_BYTES for h in hashes), "proof-hash", "a hash is not 32 bytes")


def check_inclusion(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> None:
    """RFC 9162 §2.1.3.2 (§7.1)."""
    need(0 <= index < size <= MAX_INT, "not-included", "the index is not below the size")
    need(len(proof) <= 64, "not-included", "more than 64 hashes")
    _check_hashes(leaf, root, *proof)
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        need(sn != 0, "not-included", "the proof has hashes left over")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "not-included", "the proof is too short")
    need(r == root, "not-included", "the proof leads to another root")


def check_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: list[bytes]) -> None:
    """RFC 9162 §2.1.4.2 with the edges of §7.1."""
    _check_hashes(old_root, new_root, *proof)
    need(0 <= old <= new <= MAX_INT, "not-consistent", "the new tree is smaller")
    for size, root in ((old, old_root), (new, new_root)):
        need(size > 0 or root == EMPTY_ROOT, "not-consistent", "size 0 without the empty root")
    if old in (0, new):
        need(not proof, "not-consistent", "the proof must be empty")
        need(old == 0 or old_root == new_root, "not-consistent", "equal sizes, different roots")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    need(bool(path), "not-consistent", "the proof is too short")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        need(sn != 0, "not-consistent", "the proof has hashes left over")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "not-consistent", "the proof is too short")
    need(fr == old_root and sr == new_root, "not-consistent", "the proof leads to other roots")


def check_multi_inclusion(
    size: int, leaves: list[tuple[int, bytes]], proof: list[bytes], root: bytes
) -> None:
    """All leaves are in the tree at their indices (§7.3)."""
    _check_hashes(root, *proof, *(leaf for _, leaf in leaves))
    indices = [index for index, _ in leaves]
    need(all(a < b for a, b in zip(indices, indices[1:])), "not-included", "indices do not ascend")
    need(not indices or (indices[0] >= 0 and indices[-1] < size), "not-included", "an index is not below the size")
    need(size <= MAX_INT, "not-included", "the size is too large")
    if size == 0:
        need(not proof and root == EMPTY_ROOT, "not-included", "the empty tree has the empty root and no proof")
        return
    rest = iter(proof)

    def fold(a: int, b: int, wanted: list[tuple[int, bytes]]) -> bytes:
        if not wanted:
            found = next(rest, None)
            need(found is not None, "not-included", "the proof is too short")
            assert found is not None
            return found
        if b - a == 1:
            return wanted[0][1]
        middle = a + _split(b - a)
        cut = sum(1 for index, _ in wanted if index < middle)
        return node_hash(fold(a, middle, wanted[:cut]), fold(middle, b, wanted[cut:]))

    folded = fold(0, size, leaves)
    need(next(rest, None) is None, "not-included", "the proof has hashes left over")
    need(folded == root, "not-included", "the proof leads to another root")
