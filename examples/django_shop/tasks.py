"""The shop's tasks, and the one Stem of each of its processes."""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections

from examples.django_shop.models import Order
from stem import InvalidInputError, Stem, TaskConflictError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Connects when it is first used, also in processes that a preloading server forks. A view waits at most one second.
app = Stem.connect(patience=1.0)


def with_database(function: Callable[P, R]) -> Callable[P, R]:
    """Do around a task what Django does around a request: let go of database connections that are broken or too old."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return wrapped


@app.task("order.confirm", max_retries=5)
@with_database
def confirm_order(order_id: int, language: str = "en") -> str:
    """Run in a thread of the worker, as plain functions do, where Django's ORM may be used."""
    order = Order.objects.get(pk=order_id)
    order.confirmed = True
    order.save(update_fields=["confirmed"])
    return f"{language}: confirmed to {order.email}"


def arguments(order: Order) -> dict[str, Any]:
    return {"order_id": order.pk, **order.wishes}


def send_confirmation(order: Order) -> str:
    """Enqueue from code without an event loop. The id is the order's own, so sending it once more is safe."""
    producer = app.blocking()  # a SyncStem, made once for the process
    return producer.enqueue("order.confirm", arguments(order), task_id=f"order-{order.pk}")


def send_unconfirmed() -> int:
    """For a timer: orders that were committed while the broker was away. Returns how many were sent."""
    sent = 0
    for order in Order.objects.filter(confirmed=False).order_by("pk")[:1000]:
        try:
            send_confirmation(order)
        except (InvalidInputError, TaskConflictError):  # this one is wrong; the others do not wait for it
            logger.exception("order %s was not sent", order.pk)
        else:
            sent += 1
    return sent
