"""Presets: readable files of settings, each value with its reason. Shipped ones, and those of users. No torch."""
