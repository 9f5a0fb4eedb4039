"""From stored arrays to samples: each access gets its fastest way to the bytes."""
