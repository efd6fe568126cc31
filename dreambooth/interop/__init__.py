"""Configurations of other trainers: recognized, imported and exported."""
