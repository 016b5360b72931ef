"""From a document's bytes to a compiled Snapshot, and where documents come from."""
