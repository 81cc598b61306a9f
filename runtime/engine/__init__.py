"""A model that decodes: scheduler, sampling, templates, backends."""
