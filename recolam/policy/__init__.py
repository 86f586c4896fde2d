"""The slate policy: Plackett-Luce over the catalogue, trained by policy gradient in a world."""
