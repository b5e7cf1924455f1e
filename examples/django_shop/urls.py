"""Where the shop's views are."""

from django.urls import path

from examples.django_shop import views

urlpatterns = [
    path("orders", views.create_order),
    path("tasks/<str:task_id>", views.task_status),
]
