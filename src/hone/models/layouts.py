"""Which layouts of batches a policy is given, found by trials at the start: packed or padded, beginnings shared, rows cut.

Does not know how two layouts are compared (selftest), nor what a policy computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hone import log
from hone.errors import ModelError
from hone.models.attention_packed import why_own
from hone.models.context import Context
from hone.models.forward import evaluating
from hone.models.selftest import SelfTest, compare, cutting_differs, sharing_differs
from hone.models.sharing import unshared

if TYPE_CHECKING:
    from hone.models.policy import Policy


def settle(policy: Policy) -> SelfTest:
    """Compare tapped with plain and packed with apart on two short sequences (no gradient), and keep what was found.

    On several processes call it on all of them. What fell back is said once.
    """
    with evaluating(policy):
        found = _isolated(policy)
    known = policy.padded_only
    if not found.fast:
        log.once(f"{policy.name}: all logits are formed (its own forward cannot be tapped: {found.why}); slower, same loss")
    if known or not found.can_pack:
        log.once(f"{policy.name}: packed sequences would see each other ({known or found.why_mixed}); batches are padded")
    policy.fast, policy.can_pack = found.fast, found.can_pack and not known
    return found


def _isolated(policy: Policy) -> SelfTest:
    """The self-test with sequences that attend each by itself; where that is not the same, with transformers' attention."""
    why = why_own(policy.causal)
    if policy.by_sequence:
        found = compare(policy)
        if found.can_pack:
            return found
        why, policy.by_sequence = found.why_mixed, False
    found = compare(policy)
    if found.can_pack and "flash" not in policy.causal.config.get_text_config()._attn_implementation:
        log.once(f"{policy.name}: packed rows make a mask of all tokens by all ({why}); slower, same loss")
    return found


def settle_sharing(policy: Policy) -> None:
    """After `self_test`: see whether sequences that begin alike are the same where the beginning stands once."""
    why = "its sequences are not packed" if not policy.can_pack else unshared(policy.causal.config)
    if policy.takes_media:
        why = why or "what they begin with may be a picture"
    if policy.router_loss:
        why = "the router's balance loss is one of whole sequences"
    if not why:
        with evaluating(policy):
            why = sharing_differs(policy)
    if why:
        log.once(f"{policy.name}: what sequences have in common is computed for each ({why})")
    policy.can_share = not why


def cut_over(policy: Policy, context: Context) -> None:
    """After `self_test`, on all processes: each packed row is cut over those of `context` from now on.

    Raises ModelError where this family cannot be cut, or computes other numbers then.
    """
    why = "" if policy.fast else "its forward cannot be tapped"
    why = why or ("" if policy.can_pack and policy.by_sequence else "its attention is not hone's own of packed rows")
    why = why or ("" if not policy.takes_media else "the tokens of a picture or a sound must lie on one process")
    why = why or ("its router is balanced over whole sequences: write moe_aux_loss_coef: 0" if policy.router_loss else "")
    stretched = (getattr(policy.causal.config.get_text_config(), "rope_parameters", None) or {}).get("rope_type")
    why = why or (f"its positions go by the length of a row ({stretched})" if stretched in ("dynamic", "longrope") else "")
    if not why:
        with evaluating(policy):
            why = cutting_differs(policy, context)
    if why:
        raise ModelError(
            f"context_parallel_size: rows of {policy.name} cannot be cut over processes ({why}); write another number, or "
            "leave it out"
        )
    policy.context = context
