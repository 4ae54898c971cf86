"""What a study measured, as tuples, figures and a page."""
