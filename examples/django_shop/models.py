"""What the shop stores."""

from django.db import models


class Order(models.Model):
    email = models.EmailField()
    wishes = models.JSONField(default=dict)
    confirmed = models.BooleanField(default=False)
