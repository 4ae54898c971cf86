"""The figures and the page of one sweep."""
