"""Views that enqueue: after the commit, or not at all."""

import functools
import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from examples.django_shop.models import Order
from examples.django_shop.tasks import app, arguments, send_confirmation
from stem import BrokerError, InvalidInputError, TaskNotFoundError


@csrf_exempt
@require_POST
def create_order(request: HttpRequest) -> JsonResponse:
    """Store an order and have it confirmed by a worker.

    The task leaves when the order is committed: never before (the worker would not find it), and never for an order
    that was rolled back. Its id is the order's, so that sending it once more is safe.
    """
    wishes = json.loads(request.body)
    order_id: int | None = None
    try:
        with transaction.atomic():
            order = Order.objects.create(email=wishes.pop("email"), wishes=wishes)
            order_id = order.pk
            app.registry.get("order.confirm").validate(arguments(order))  # a mistake here rolls the order back
            transaction.on_commit(functools.partial(send_confirmation, order))
            if request.headers.get("X-Card") == "refused":
                raise PermissionError("the card was refused")
    except InvalidInputError as error:
        return JsonResponse({"error": type(error).__name__, "message": str(error)}, status=400)
    except PermissionError as error:
        return JsonResponse({"error": "CardRefused", "message": str(error)}, status=402)
    except BrokerError as error:  # the order is committed, its task was not accepted
        return JsonResponse({"error": type(error).__name__, "order": order_id}, status=503, headers={"Retry-After": 5})
    return JsonResponse({"order": order_id, "task": f"order-{order_id}"}, status=202)


@require_GET
def task_status(request: HttpRequest, task_id: str) -> JsonResponse:
    try:
        status = app.blocking().status(task_id)
    except TaskNotFoundError as error:
        return JsonResponse({"error": "TaskNotFoundError", "message": str(error)}, status=404)
    except BrokerError as error:
        return JsonResponse({"error": type(error).__name__}, status=503, headers={"Retry-After": 5})
    return JsonResponse({"id": status.id, "state": status.state, "result": status.result})
