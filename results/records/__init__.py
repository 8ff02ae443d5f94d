"""Records on disk: files, claims, the store, data frames, published numbers. Imports no other room."""
