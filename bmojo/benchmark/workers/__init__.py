"""Programs that run in other environments; nothing here imports bmojo."""
