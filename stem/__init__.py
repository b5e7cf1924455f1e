"""Background tasks for Python whose workers can be seen and steered live."""
