"""The appliance between two real execution clients: `make test-real` (needs Node and npm)."""
