"""Programs for the tests' own use: `make tools`."""
