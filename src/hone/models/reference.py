"""Reference: the model that a policy is held against, which never learns: the base under its adapter, or another model.

Does not know where that model came from nor what it is compared for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hone.models.forward import TokenBatch, evaluating
from hone.models.policy import Policy


class Reference:
    """`Reference(policy, off).token_logprobs(batch)`: those of `policy` while the context `off()` is held, without gradient.

    off: what makes the policy the reference, such as switching its adapter off; nothing for a model of its own.
    """

    def __init__(self, policy: Policy, off: Callable[[], AbstractContextManager[object]] = nullcontext):
        self._policy, self._off = policy, off

    def token_logprobs(self, batch: TokenBatch) -> Tensor:
        """fp32 [B, T], as Policy.token_logprobs, in evaluation mode (no dropout) and without gradient."""
        with self.held() as policy:
            return policy.token_logprobs(batch)

    def label_logits(self, batch: TokenBatch) -> Callable[[slice], Tensor]:
        """As Policy.label_logits, without gradient; the logits may be asked for while the policy computes."""
        with self.held() as policy:
            logits_of, head = policy.label_logits(batch), policy.causal.get_output_embeddings()
        # An adapter on the head would change them; a plain head is never switched, as that takes a walk through the model.
        off = self._off if type(head) is not nn.Linear else nullcontext

        def logits(part: slice) -> Tensor:
            with torch.no_grad(), off():
                return logits_of(part)

        return logits

    @contextmanager
    def held(self) -> Iterator[Policy]:
        """The policy while it is the reference, for readings other than log-probs."""
        with torch.no_grad(), evaluating(self._policy), self._off():
            yield self._policy
