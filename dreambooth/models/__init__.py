"""Model families in memory: what training, validation and sampling share."""
