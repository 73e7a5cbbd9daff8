"""What users write: one module per kind, and the parser that tells every mistake at once."""
