"""./impervious soak: two nodes under traffic while everything around them dies; then ledgers outside of them are compared."""
