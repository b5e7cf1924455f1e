"""A small Django project whose views enqueue tasks; explained in docs/frameworks.md."""
