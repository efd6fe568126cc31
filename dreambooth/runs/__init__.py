"""A whole run, and the pictures it shows on its way."""
