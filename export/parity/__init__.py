"""``export.parity``: is an export the model that it was made from?"""
