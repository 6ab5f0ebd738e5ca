"""Language models as judges of texts."""
