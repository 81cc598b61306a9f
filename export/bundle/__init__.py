"""``export.bundle``: what ships."""
