"""Class names and templates to classifiers."""
