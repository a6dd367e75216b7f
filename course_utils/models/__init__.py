"""One file per model. Import from the file that is named after it."""
