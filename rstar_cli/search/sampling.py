"""Seeds and requests: what makes a draw depend on where it happens, never on when."""

from __future__ import annotations

from hashlib import blake2b

from rstar_cli.protocols import SampleRequest
from rstar_cli.search.tree import Node, Tree, path


def derive_seed(*parts: object) -> int:
    """A 64-bit seed from any printable parts, equal for equal parts on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def request(
    tree: Tree,
    node: Node,
    *,
    n: int,
    stop: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    opening: tuple[int, ...] = (),
    alternatives: int = 0,
) -> SampleRequest:
    """Ask for n continuations of `node`; its seed is made of the tree's seed, the node's path and the draw index."""
    place = ".".join(str(step.id) for step in path(node))
    seed = derive_seed(tree.seed, place, node.draws)
    node.draws += 1
    return SampleRequest(tree.prefix(node), n, seed, stop, max_tokens, temperature, opening, alternatives)
