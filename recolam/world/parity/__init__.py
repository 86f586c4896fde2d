"""Is it the same world? Stock interest evolution beside another implementation of it, by tests and exactly."""
