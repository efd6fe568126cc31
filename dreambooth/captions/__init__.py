"""Captions: the rules by which they are read (ours and sd-scripts'), and editing them with undo."""
