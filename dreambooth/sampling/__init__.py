"""Pictures from modules."""
