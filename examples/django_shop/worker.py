"""What wsgi.py is to the web server, for the worker: sets Django up, then loads the tasks.

Work: stem-worker examples.django_shop.worker:app
"""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_shop.settings")
django.setup()

from examples.django_shop.tasks import app  # noqa: E402 - models can be imported only once Django is set up

__all__ = ["app"]
