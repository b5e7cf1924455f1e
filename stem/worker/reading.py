"""Is a delivery readable, and known here? From its bytes to envelope and plan, or to how it is refused. Pure rules."""

from __future__ import annotations

import logging

from stem.contracts import Delivery, Expired, Settlement
from stem.errors import ConfigError, DecodeError, InvalidArgumentsError, StemError, UnknownTaskError
from stem.messages.codec import MAX_BODY
from stem.messages.envelope import Envelope
from stem.signing import PayloadSigner
from stem.worker import verdict
from stem.worker.plan import Plan, Planner

log = logging.getLogger("stem.worker")


class Reader:
    """Reads what the broker hands out.

    Args:
        isolates: there can be child processes here.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        signer: PayloadSigner | None,
        namespace: str,
        isolates: bool,
        max_body: int = MAX_BODY,
    ) -> None:
        self._planner = planner
        self._signer = signer
        self._namespace = namespace
        self._isolates = isolates
        self._max_body = max_body

    def read(self, delivery: Delivery) -> tuple[Envelope, Plan]:
        """Return what is to be run, and how.

        Raises:
            StemError: what is wrong with it; see `refusal`.
        """
        envelope = self._opened(delivery)
        plan = self._planner.plan(delivery.task, envelope.options)
        plan.registered.validate(envelope.args)
        if plan.isolated and not self._isolates:
            raise ConfigError("its producer wants a child process, and this worker has no application to import there")
        return envelope, plan

    def told(self, expired: Expired) -> Envelope | None:
        """Return what a task that ended before it was handed out says of itself; None where that cannot be trusted."""
        try:
            return self._opened(expired)
        except StemError:
            return None

    def _opened(self, task: Delivery | Expired) -> Envelope:
        if self._signer is not None:
            self._signer.verify("task", self._namespace, task.queue, task.body, task.signature)
        envelope = Envelope.decode(task.body, limit=self._max_body)
        if envelope.id != task.id or envelope.task != task.task:
            raise DecodeError("the body is another task's than its record says")
        return envelope

    def refusal(self, delivery: Delivery, error: StemError) -> Settlement:
        """Return what becomes of a delivery that cannot be read or run here."""
        if isinstance(error, InvalidArgumentsError):
            return verdict.dead(delivery, 86_400_000, error, reason="failed")
        if isinstance(error, UnknownTaskError | ConfigError) and delivery.give_backs == 0:
            what = "no handler of this name is registered here" if isinstance(error, UnknownTaskError) else str(error)
            log.warning(
                "task.unknown",
                extra={
                    "task_id": delivery.id,
                    "task": delivery.task,
                    "queue": delivery.queue,
                    "hint": f"{what}; it is given back for another worker",
                },
            )
        return verdict.unreadable(delivery, error)
