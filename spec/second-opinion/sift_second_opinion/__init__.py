"""A second verifier of Sift's receipts and evidence packs, written from spec/SPEC.md alone."""
